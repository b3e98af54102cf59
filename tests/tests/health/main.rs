//! Health checks against the servers that they are made for, each in a network namespace of its own.

mod databases;
mod ping;
mod resolve;
mod support;
mod web;
