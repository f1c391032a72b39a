//! ringpost keeps one complete mail system on every core.
#![deny(unsafe_code)]

pub mod access;
pub mod acme;
pub mod admin;
pub mod auth;
pub mod config;
pub mod control;
pub mod delivery;
pub mod dns;
pub mod entrance;
pub mod event;
pub mod fsck;
pub mod journal;
pub mod limits;
pub mod mail;
pub mod mailbox;
pub mod metrics;
pub mod proto;
pub mod queue;
pub mod reception;
pub mod routing;
pub mod runtime;
pub mod shard;
pub mod tls;
pub mod web;
