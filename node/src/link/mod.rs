//! Local links: the unix socket that processes attach to, and one [`process::Process`] for each that did, the program
//! that the node is embedded in included.

pub(crate) mod credentials;
pub(crate) mod process;
pub(crate) mod sink;
pub(crate) mod socket;

use std::rc::Rc;

use self::{credentials::Allowed, socket::BoundSocket};
use crate::node::Node;

/// Accepts processes for as long as it is polled.
pub(crate) async fn serve(node: Rc<Node>, socket: BoundSocket, allowed: Allowed) {
    loop {
        let (stream, peer) = socket.accept().await;
        let denied = allowed.check(peer).err();
        tokio::task::spawn_local(process::serve(Rc::clone(&node), stream, peer, denied));
    }
}
