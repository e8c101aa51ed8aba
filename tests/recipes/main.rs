//! docs/broker.md, done as it is written: its files configure real servers, its commands are typed.

mod keepalived;
mod ldap;
mod node;
mod permissions;
mod slapd;
#[path = "../support/mod.rs"]
mod support;
mod titles;
