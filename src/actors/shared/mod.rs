//! What several actors share and is no actor: how messages to other nodes are written, where the view of the group is
//! published, what this node has of an object,
//! and how much is read of the store at a time. It stands here and not in the room above, because actors need it.

pub mod codec;
pub mod group_view;
pub mod local_read;
pub mod readings;
