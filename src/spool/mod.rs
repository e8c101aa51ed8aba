//! Everything durable on local disk.
