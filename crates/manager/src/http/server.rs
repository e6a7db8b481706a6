//! Sockets and TLS: an accept loop with limits on connections, handshakes and headers.

use crate::authority::{Authority, ServerIdentity};
use crate::error::ManagerError;
use crate::limits::{
    CONNECTIONS_MAX, HANDSHAKE_MS_MAX, HEADER_BYTES_MAX, HEADER_MS_MAX, SHUTDOWN_MS_MAX,
};
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What TLS has proven about a connection: the certificate's key is the caller's, and the authority
/// signed it. Whether it was revoked, and what it allows, is asked at each call.
#[derive(Clone, Default)]
pub(crate) struct Connection {
    pub(crate) certificate: Option<Arc<CertificateDer<'static>>>,
}

/// TLS with the authority as the only root. A certificate is optional here, because `enroll` comes
/// without one; one from another authority is refused in the handshake.
pub(crate) fn acceptor(
    authority: &Authority,
    identity: ServerIdentity,
) -> Result<TlsAcceptor, ManagerError> {
    let tls = |error: &dyn std::fmt::Display| ManagerError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate_der()?)
        .map_err(|error| tls(&error))?;
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| tls(&error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| tls(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop` says so, then lets open calls end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned();
        let next = async {
            let permit = permit.await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let one = connection(stream, address, tls.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    one.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_millis(SHUTDOWN_MS_MAX), ended)
        .await
        .is_err()
    {
        tracing::warn!("open calls did not end in time and are cut");
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let handshake = tls.accept(stream);
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    let stream = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%address, %error, "TLS was refused; is the certificate from here?");
            return;
        }
        Err(_) => {
            tracing::warn!(%address, "the TLS handshake took too long");
            return;
        }
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| Arc::new(certificate.clone().into_owned()));
    let service = TowerToHyperService::new(router.layer(Extension(Connection { certificate })));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_MS_MAX))
        .max_buf_size(HEADER_BYTES_MAX);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        result = served.as_mut() => Some(result),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, %error, "a connection ended");
    }
}
