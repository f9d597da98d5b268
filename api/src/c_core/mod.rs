//! What lets gRPC's C-core clients (Python, Ruby, C++ and others) in on a Unix socket.
//!
//! They send the socket's path, percent-escaped, as the authority, and h2 refuses it. `authority` owns
//! the filter in front of h2 that replaces it, `hpack` the header compression that it has to follow.

mod authority;
mod hpack;

pub use authority::AuthorityFilter;
