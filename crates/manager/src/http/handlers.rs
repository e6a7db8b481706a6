//! One handler for each route: bytes in, a call of the app, JSON out. No decision is made here.

use super::{Call, Handler};
use crate::app::Peer;
use crate::error::AppError;
use crate::limits::ENTRIES_PER_ANSWER_MAX;
use lictor_wire::api::Route;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The handler of a route.
pub(crate) fn find(route: &Route) -> Option<Handler> {
    Some(match (route.method, route.path) {
        ("POST", "/v1/enroll") => |app, call| json(&app.enroll(&parse(call)?)?),
        ("POST", "/v1/tokens") => |app, call| json(&app.issue_token(peer(call)?, &parse(call)?)?),
        ("GET", "/v1/trust") => |app, _| json(app.trust()),
        ("GET", "/v1/release") => |app, _| json(&app.newest_release()?),
        ("POST", "/v1/releases") => |app, call| json(&app.publish_release(&parse(call)?)?),
        ("POST", "/v1/freshness") => |app, call| json(&app.publish_freshness(&parse(call)?)?),
        ("GET", "/v1/bindings") => |app, _| json(&app.binding_document()?),
        ("POST", "/v1/bindings") => |app, call| json(&app.publish_binding(&parse(call)?)?),
        ("POST", "/v1/attestations") => {
            |app, call| json(&app.publish_attestation(peer(call)?, &parse(call)?)?)
        }
        ("PUT", "/v1/hosts/{host}") => {
            |app, call| json(&app.report(peer(call)?, last_part(call), &parse(call)?)?)
        }
        ("POST", "/v1/sessions") => |app, _| json(&app.ask_sessions()?),
        ("PUT", "/v1/hosts/{host}/sessions") => |app, call| {
            let from = (peer(call)?, host_part(call));
            json(&app.list_sessions(from, parse(call)?, call.body.len())?)
        },
        ("GET", "/v1/hosts/{host}/sessions") => {
            |app, call| json(&*app.sessions_of(host_part(call))?)
        }
        ("GET", "/v1/inventory") => |app, _| json(&app.inventory()?),
        ("POST", "/v1/evidence") => {
            |app, call| json(&app.append_evidence(peer(call)?, &parse(call)?)?)
        }
        ("POST", "/v1/placements") => |app, call| json(&app.place(&parse(call)?)?),
        ("GET", "/v1/moves") => |app, _| json(&app.moves()?),
        ("GET", "/v1/log/checkpoint") => |app, _| json(&app.checkpoint()?),
        ("GET", "/v1/log/entries") => |app, call| {
            let (first, count) = (number(call, "first", 0)?, number(call, "count", u64::MAX)?);
            json(&app.entries(first, count.min(ENTRIES_PER_ANSWER_MAX))?)
        },
        ("GET", "/v1/pack") => |app, _| json(&app.pack()?),
        ("GET", "/v1/health") => |app, _| json(&app.health()?),
        _ => return None,
    })
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, AppError> {
    serde_json::to_vec(value).map_err(|error| AppError::Internal(error.to_string()))
}

fn parse<T: DeserializeOwned>(call: &Call) -> Result<T, AppError> {
    serde_json::from_slice(&call.body)
        .map_err(|error| AppError::Malformed(format!("{}: {error}", call.path)))
}

fn peer(call: &Call) -> Result<&Peer, AppError> {
    let missing = || AppError::Unauthenticated("this call needs a certificate".into());
    call.peer.as_ref().ok_or_else(missing)
}

fn last_part(call: &Call) -> &str {
    call.path.rsplit('/').next().unwrap_or_default()
}

/// Of `/v1/hosts/{host}/sessions`.
fn host_part(call: &Call) -> &str {
    call.path.rsplit('/').nth(1).unwrap_or_default()
}

fn number(call: &Call, name: &str, default: u64) -> Result<u64, AppError> {
    let query = call.query.as_deref().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = pairs.find(|(key, _)| *key == name) else {
        return Ok(default);
    };
    value
        .parse()
        .map_err(|_| AppError::Malformed(format!("{name}={value}: expected a whole number")))
}
