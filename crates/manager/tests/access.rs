//! Who may call what: every route as every role and as nobody, tokens, certificates, limits.

mod support;

use lictor_types::MESSAGE_BYTES_MAX;
use lictor_wire::api::{ROUTES, Role, TokenRequest};
use serde_json::json;
use std::time::Duration;
use support::{Client, Pair, Server, enrol, key};

const UNAUTHENTICATED: u16 = 401;
const FORBIDDEN: u16 = 403;

fn name_of(role: Role) -> &'static str {
    if role == Role::Agent { "a" } else { "somebody" }
}

/// The path with a name in the place of each parameter.
fn concrete(path: &str) -> String {
    path.replace("{host}", "a")
}

#[test]
fn every_route_answers_its_roles_and_nobody_else() {
    let server = Server::start();
    let anonymous = server.anonymous();
    for route in ROUTES {
        let (status, answer) = anonymous.call(route.method, &concrete(route.path), &json!({}));
        let open = route.roles.is_empty();
        assert_eq!(
            status != UNAUTHENTICATED,
            open,
            "{route:?}: {status} {answer}"
        );
    }
    for role in Role::ALL {
        let client = server.enrol(role, name_of(role));
        for route in ROUTES {
            let (status, answer) = client.call(route.method, &concrete(route.path), &json!({}));
            let allowed = route.roles.is_empty() || route.roles.contains(&role);
            assert_ne!(status, UNAUTHENTICATED, "{role:?} {route:?}: {answer}");
            assert_eq!(
                status != FORBIDDEN,
                allowed,
                "{role:?} {route:?}: {status} {answer}"
            );
            assert!(status < 500, "{role:?} {route:?}: {status} {answer}");
        }
    }
}

#[test]
fn nothing_is_served_beside_the_listed_routes() {
    let server = Server::start();
    let admin = server.enrol(Role::PlatformAdmin, "root");
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/secrets",
        "/v1/hosts",
        "/v1/hosts/a/b",
        "/metrics",
    ] {
        admin.refused(("GET", path), &(), (404, "no such path"));
    }
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        for route in ROUTES {
            let path = concrete(route.path);
            let listed = |entry: &&_| {
                let entry: &lictor_wire::api::Route = entry;
                entry.method == method && entry.path == route.path
            };
            if ROUTES.iter().find(listed).is_none() {
                let (status, answer) = admin.call(method, &path, &json!({}));
                assert_eq!(status, 404, "{method} {path}: {answer}");
            }
        }
    }
}

#[test]
fn a_token_counts_once_and_until_it_lapses() {
    let server = Server::start();
    let anonymous = server.anonymous();
    let check = |token: &str, why: &str| {
        let (status, answer) = enrol(&anonymous, token, None)
            .err()
            .expect("must be refused");
        assert_eq!(status, UNAUTHENTICATED, "{answer}");
        assert!(
            answer.to_string().contains(why),
            "expected {why:?} in {answer}"
        );
    };
    let token = server.token(Role::Auditor, "eve");
    assert!(enrol(&anonymous, &token, None).is_ok());
    check(&token, "was used already");
    check("0123", "is not known here");
    let late = server.token(Role::Auditor, "eve");
    server.clock.forward(Duration::from_secs(10 * 60));
    check(&late, "has lapsed");
}

#[test]
fn a_host_keeps_its_key_until_an_admin_removes_it() {
    let server = Server::start();
    let first = server.enrol(Role::Agent, "a");
    first.ok("GET", "/v1/health", &());
    let again = server.enrol(Role::Agent, "a");
    again.ok("GET", "/v1/health", &());
    let other = key("other").verify_key();
    let try_other = |key| enrol(&server.anonymous(), &server.token(Role::Agent, "a"), key);
    let (status, answer) = try_other(Some(other.clone()))
        .err()
        .expect("must be refused");
    assert_eq!(status, 409, "{answer}");
    let (status, answer) = try_other(None).err().expect("must be refused");
    assert_eq!(status, 400, "{answer}");
    let clock = server.clock.clock();
    let revoked = lictor_manager::remove_agent(server.dir.path(), &support::host("a"), &clock);
    assert_eq!(revoked.expect("it was enrolled"), 2);
    first.refused(("GET", "/v1/health"), &(), (UNAUTHENTICATED, "was revoked"));
    assert!(try_other(Some(other)).is_ok());
}

#[test]
fn token_requests_outside_the_limits_are_refused() {
    let server = Server::start();
    let admin = server.enrol(Role::PlatformAdmin, "root");
    let longest = lictor_manager::TOKEN_MINUTES_MAX;
    let name_max = lictor_manager::NAME_CHARS_MAX;
    let check = |role, name: &str, minutes, status| {
        let request = TokenRequest {
            role,
            name: name.into(),
            minutes,
        };
        let (found, answer) = admin.call("POST", "/v1/tokens", &request);
        assert_eq!(found, status, "{request:?}: {answer}");
    };
    check(Role::Auditor, "eve", longest, 200);
    check(Role::Auditor, "eve", longest + 1, 400);
    check(Role::Auditor, "eve", 0, 400);
    check(Role::Auditor, &"e".repeat(name_max), 1, 200);
    check(Role::Auditor, &"e".repeat(name_max + 1), 1, 400);
    check(Role::Auditor, "", 1, 400);
    check(Role::Auditor, "eve\n", 1, 400);
    check(Role::Agent, "Not A Host", 1, 400);
    check(Role::Agent, "manager", 1, 400);
}

#[test]
fn a_certificate_of_another_authority_is_refused_in_the_handshake() {
    let (server, foreign) = (Server::start(), Server::start());
    let token = foreign.token(Role::PlatformAdmin, "root");
    let pair = enrol(&foreign.anonymous(), &token, None).expect("enrolled there");
    let client = Client::new(server.dir.path(), server.address, Some(pair));
    let error = client
        .send("GET", "/v1/health", b"")
        .expect_err("must be refused");
    let text = format!("{error:?}").to_lowercase();
    assert!(text.contains("alert") || text.contains("decrypt"), "{text}");
}

#[test]
fn a_certificate_that_the_manager_never_issued_is_refused() {
    let server = Server::start();
    // Signed with the stolen authority's key, but never entered: only enrolment makes one count.
    let read = |name: &str| std::fs::read_to_string(server.dir.path().join(name)).expect("a file");
    let authority_key = rcgen::KeyPair::from_pem(&read("authority.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("authority.pem"), authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationalUnitName, "platform-admin");
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "root");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params
        .signed_by(&key, &issuer.expect("an issuer"))
        .expect("signed");
    let pair = Pair {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    };
    let client = Client::new(server.dir.path(), server.address, Some(pair));
    client.refused(
        ("GET", "/v1/health"),
        &(),
        (UNAUTHENTICATED, "was not issued by"),
    );
}

#[test]
fn a_message_of_one_byte_too_many_is_refused() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let check = |client: &Client, path: &str, bytes: usize, status: u16| {
        match client.send("POST", path, &vec![b' '; bytes]) {
            Ok((found, answer)) => assert_eq!(found, status, "{bytes} bytes: {answer}"),
            // The manager answers and closes while the rest is still being sent.
            Err(error) => assert_eq!(status, 413, "{bytes} bytes: {error}"),
        }
    };
    check(&agent, "/v1/evidence", MESSAGE_BYTES_MAX, 400);
    check(&agent, "/v1/evidence", MESSAGE_BYTES_MAX + 1, 413);
    let anonymous = server.anonymous();
    check(&anonymous, "/v1/enroll", 16 << 10, 400);
    check(&anonymous, "/v1/enroll", (16 << 10) + 1, 413);
}
