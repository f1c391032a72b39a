//! What shards and the control thread say to one another.

use super::ask::Ask;
use crate::access::AccessMemo;
use crate::delivery::DeliveryMemo;
use crate::entrance::clients::ClientMemo;
use crate::mailbox::MailboxMemo;
use crate::runtime::net::DetachedTcpStream;

/// One message into a shard's inbox. A full inbox gives it back: the sender keeps it.
pub enum Memo {
    /// Sessions of one client address, counted over all shards.
    Client(ClientMemo),
    /// Sessions that read mailboxes.
    Access(AccessMemo),
    /// Leases of limited sites, and what rules for replies say of sites.
    Delivery(DeliveryMemo),
    /// Messages for another shard's mailboxes.
    Mailbox(MailboxMemo),
    /// A client at a socket of this machine: the position of its `[[listener]]`.
    Arrived { listener: usize, stream: DetachedTcpStream },
    /// The control thread wants to know or change something.
    Ask(Ask),
}
