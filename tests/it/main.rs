//! ringpost as a real process on loopback, and the shape of its sources.

mod bad_disk;
mod compaction;
mod disk;
mod dns;
mod durability;
mod effects;
mod egress;
mod explain;
mod fsck;
mod full_disk;
mod harness;
mod hostile;
mod interop;
mod limits;
mod memory;
mod mx;
mod next_hops;
mod operate;
mod relay;
mod replies;
mod reports;
mod shards;
mod start;
mod steer;
mod streams;
mod tidy;
