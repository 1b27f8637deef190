//! What operators are told to do in more than one place.

/// How a migration begins anew. The receiver reads its state when it starts, and never again.
pub(crate) const BEGIN_ANEW: &str = "stop the receiver, move the server's folder (`servers/NAME` \
     in its state folder) away, start it again, and put the new token that it prints into \
     agent.toml";

/// How an agent without its key, or without a good token, gets in again.
pub(crate) const NEW_TOKEN: &str = "print a new join token: start the receiver again with \
     `carreto receive --new-token NAME`, and put the token into agent.toml; what was sent is kept";
