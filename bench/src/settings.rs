//! What attachments and nodes of a measurement are told, where a figure is held against it.

use serde::{Deserialize, Serialize};
use trunkline::{Attachment, AttachmentBuilder};

/// The budgets of an attachment, in bytes. The defaults are those of the SDK, said once more: the ceiling that is
/// computed from them is then that of what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Budgets {
    /// What streams to the process may hold.
    pub(crate) receive_bytes: u64,
    /// What streams from the process may hold.
    pub(crate) send_bytes: u64,
    /// The longest message, and so the room for those that are longer than their stream's window.
    pub(crate) message_bytes_max: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { receive_bytes: 256 << 20, send_bytes: 256 << 20, message_bytes_max: 64 << 20 }
    }
}

impl Budgets {
    /// An attachment with these.
    pub(crate) fn builder(&self) -> AttachmentBuilder {
        Attachment::builder()
            .receive_budget_bytes(self.receive_bytes)
            .send_budget_bytes(self.send_bytes)
            .message_bytes_max(usize::try_from(self.message_bytes_max).unwrap_or(usize::MAX))
    }
}
