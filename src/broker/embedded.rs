//! A durable topic broker in one SQLite file.
