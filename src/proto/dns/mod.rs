//! DNS messages (RFC 1035): names, questions, what answers hold. Bytes in, values out.

mod answer;
mod message;
mod name;
mod record;

pub use answer::{Answer, LookupError};
pub use message::{Answered, Query, Reading, Response, Transport};
pub use name::Name;
pub use record::{Kind, Mx, Record, Tlsa};
