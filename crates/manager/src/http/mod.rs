//! The API over HTTP. The router is built from `wire::api::ROUTES` and from nothing else: a route
//! that is not in that list does not exist, and its roles are checked before its body is read.

mod handlers;
mod server;

pub(crate) use server::{Connection, acceptor, serve};

use crate::app::{App, Peer};
use crate::error::AppError;
use crate::limits::BODY_MS_MAX;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use futures_util::StreamExt;
use lictor_store::StoreError;
use lictor_types::MESSAGE_BYTES_MAX;
use lictor_wire::api::{ApiError, ROUTES, Route};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a caller without a certificate may send, else 413: a request for a certificate.
pub(crate) const ANONYMOUS_BYTES_MAX: usize = 16 << 10;

/// One call, as a handler sees it.
pub(crate) struct Call {
    /// Who calls; none only where the route asks for no certificate.
    pub(crate) peer: Option<Peer>,
    /// The path as it was called.
    pub(crate) path: String,
    /// What stands after the question mark.
    pub(crate) query: Option<String>,
    /// The message.
    pub(crate) body: Vec<u8>,
}

/// A handler: it turns bytes into a call of the app, and the result into JSON.
pub(crate) type Handler = fn(&App, &Call) -> Result<Vec<u8>, AppError>;

/// The router over every route, and no other.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = handlers::find(route).expect("every route has a handler, a test walks them");
        let method = Method::try_from(route.method).expect("routes have valid methods");
        let filter = MethodFilter::try_from(method).expect("routes have common methods");
        let answer = move |State(app): State<Arc<App>>, request: Request| async move {
            respond(call(app, route, handler, request).await)
        };
        router = router.route(route.path, on(filter, answer));
    }
    router
        .fallback(async || respond(Err(AppError::NotFound("there is no such path".into()))))
        .method_not_allowed_fallback(async || {
            respond(Err(AppError::NotFound(
                "the path does not know this method".into(),
            )))
        })
        .with_state(Arc::clone(app))
}

async fn call(
    app: Arc<App>,
    route: &'static Route,
    handler: Handler,
    request: Request,
) -> Result<Vec<u8>, AppError> {
    let (parts, body) = request.into_parts();
    let connection = parts
        .extensions
        .get::<Connection>()
        .cloned()
        .unwrap_or_default();
    let peer = {
        let app = Arc::clone(&app);
        blocking(move || app.admit(route, connection.certificate.as_deref())).await?
    };
    let bytes_max = if peer.is_some() {
        MESSAGE_BYTES_MAX
    } else {
        ANONYMOUS_BYTES_MAX
    };
    let read = read_body(body, bytes_max);
    let body = tokio::time::timeout(Duration::from_millis(BODY_MS_MAX), read)
        .await
        .map_err(|_| AppError::TooSlow(format!("the body took over {BODY_MS_MAX} ms")))??;
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().map(str::to_owned);
    blocking(move || {
        handler(
            &app,
            &Call {
                peer,
                path,
                query,
                body,
            },
        )
    })
    .await
}

/// The store blocks on the disk, which an asynchronous task must not.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AppError> + Send + 'static,
) -> Result<T, AppError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| AppError::Internal(format!("the call ended early: {error}")))?
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Vec<u8>, AppError> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| AppError::Malformed(format!("the body broke off: {error}")))?;
        if bytes.len() + chunk.len() > bytes_max {
            let what = format!("the message is longer than {bytes_max} bytes; send less at once");
            return Err(AppError::TooLarge(what));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The one table from errors to status codes.
fn status(error: &AppError) -> StatusCode {
    match error {
        AppError::Malformed(_) => StatusCode::BAD_REQUEST,
        AppError::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        AppError::Forbidden(_) => StatusCode::FORBIDDEN,
        AppError::NotFound(_) => StatusCode::NOT_FOUND,
        AppError::Conflict(_) => StatusCode::CONFLICT,
        AppError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        AppError::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
        AppError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        AppError::Storage(StoreError::Full) => StatusCode::INSUFFICIENT_STORAGE,
        AppError::Storage(StoreError::Exists | StoreError::Range { .. }) => StatusCode::CONFLICT,
        AppError::Storage(_) => StatusCode::SERVICE_UNAVAILABLE,
        AppError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn respond(result: Result<Vec<u8>, AppError>) -> Response {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (status(&error), explain(&error)),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn explain(error: &AppError) -> Vec<u8> {
    if let AppError::Internal(detail) = error {
        tracing::error!(detail, "a call failed");
    }
    let mut reasons = match error {
        AppError::Refused { reasons, .. } => reasons.clone(),
        _ => Vec::new(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        reasons.push(cause.to_string());
        source = cause.source();
    }
    let answer = ApiError {
        error: error.to_string(),
        reasons,
    };
    serde_json::to_vec(&answer).expect("texts are always JSON")
}
