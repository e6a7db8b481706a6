//! Evidence packs: this version has none to give and says so.

use super::App;
use crate::error::AppError;
use lictor_wire::api::Pack;

impl App {
    /// Refuses: an empty pack would look like evidence of nothing.
    pub(crate) fn pack(&self) -> Result<Pack, AppError> {
        Err(AppError::NotFound(
            "this manager builds no evidence packs; read /v1/log/entries and /v1/log/checkpoint"
                .into(),
        ))
    }
}
