//! The manager's own certificate authority: made once by `init`, its key for its owner only.

use crate::error::{AppError, ManagerError};
use crate::files;
use crate::limits::{AUTHORITY_DAYS, CERTIFICATE_DAYS};
use lictor_types::Digest;
use lictor_wire::api::Role;
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::path::Path;
use std::time::Duration;

const CERTIFICATE_FILE: &str = "authority.pem";
const KEY_FILE: &str = "authority.key";
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Certificates begin a little early: clocks of hosts differ.
const EARLY_MS: u64 = 5 * 60 * 1_000;

/// The certificate authority.
pub(crate) struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for a client.
pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) fingerprint: Digest,
    pub(crate) not_after_ms: u64,
}

/// The manager's own certificate and key. The key lives in memory only: each start makes another.
pub(crate) struct ServerIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes an authority and writes it.
    pub(crate) fn create(dir: &Path, deployment: &str, now_ms: u64) -> Result<Self, ManagerError> {
        let key = KeyPair::generate()?;
        let mut params = lifetime(now_ms, AUTHORITY_DAYS);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Lictor {deployment}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        files::write_secret(&dir.join(KEY_FILE), key.serialize_pem().as_bytes())?;
        files::write_new(&dir.join(CERTIFICATE_FILE), pem.as_bytes())?;
        Self::of(pem, key)
    }

    /// Reads the authority that [`Authority::create`] wrote.
    pub(crate) fn load(dir: &Path) -> Result<Self, ManagerError> {
        let key_path = dir.join(KEY_FILE);
        let key = KeyPair::from_pem(&files::read_secret(&key_path)?).map_err(|error| {
            ManagerError::Content {
                path: key_path,
                detail: format!("not a key: {error}"),
            }
        })?;
        Self::of(files::read(&dir.join(CERTIFICATE_FILE))?, key)
    }

    fn of(certificate_pem: String, key: KeyPair) -> Result<Self, ManagerError> {
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)?;
        Ok(Self {
            certificate_pem,
            issuer,
        })
    }

    /// The authority's certificate.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate for TLS.
    pub(crate) fn certificate_der(&self) -> Result<CertificateDer<'static>, ManagerError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|error| ManagerError::Tls(error.to_string()))
    }

    /// Certifies the public key of a request. Nothing else of the request is believed: role and
    /// name come from the token.
    pub(crate) fn issue_client(
        &self,
        request_pem: &str,
        (role, name): (Role, &str),
        now_ms: u64,
    ) -> Result<Issued, AppError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| {
            AppError::Malformed(format!(
                "request_pem: expected a PKCS #10 request in PEM that its own key signed: {error}"
            ))
        })?;
        let mut params = lifetime(now_ms, CERTIFICATE_DAYS);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role.name());
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|error| AppError::Internal(format!("certifying failed: {error}")))?;
        Ok(Issued {
            pem: certificate.pem(),
            fingerprint: Digest::of(certificate.der()),
            not_after_ms: now_ms + CERTIFICATE_DAYS * DAY_MS,
        })
    }

    /// Makes a key and a certificate for the manager under these DNS names and addresses.
    pub(crate) fn issue_server(
        &self,
        names: &[String],
        now_ms: u64,
    ) -> Result<ServerIdentity, ManagerError> {
        let key = KeyPair::generate()?;
        let mut params = lifetime(now_ms, CERTIFICATE_DAYS);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params
            .distinguished_name
            .push(DnType::CommonName, "lictor manager");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.certificate_der()?];
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| ManagerError::Tls(error.to_owned()))?;
        Ok(ServerIdentity { chain, key })
    }
}

/// Parameters with a serial number and a lifetime, and a name without content.
fn lifetime(now_ms: u64, days: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = epoch + Duration::from_millis(now_ms.saturating_sub(EARLY_MS));
    params.not_after = epoch + Duration::from_millis(now_ms + days * DAY_MS);
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    rand::rngs::OsRng.fill_bytes(&mut serial);
    // RFC 5280, section 4.1.2.2: a serial number is positive.
    serial[0] = serial[0] & 0x7f | 1;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// Role and name in a certificate, if it has both and the role exists.
pub(crate) fn subject(der: &[u8]) -> Option<(Role, String)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let role = subject.iter_organizational_unit().next()?.as_str().ok()?;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    Some((Role::from_name(role)?, name.to_owned()))
}
