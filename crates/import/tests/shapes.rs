//! A Kubernetes object of which a field is something else than it must be is refused, with its
//! place: read as nothing, it would be about everybody.

mod support;

use lictor_import::{Format, import};
use support::source;

/// A policy with this specification is refused in these words.
fn check(spec: &str, expected: &str) {
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {spec}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop}}\n"
    );
    let found = import(Format::K8s, "p", &[source("p.yaml", text.as_bytes())]);
    match found {
        Ok(_) => assert_eq!(expected, "", "{spec} is taken"),
        Err(error) => {
            let error = error.to_string();
            assert!(
                !expected.is_empty() && error.contains(expected),
                "{spec}: {error}"
            );
            assert!(error.contains("p.yaml: NetworkPolicy shop/p"), "{error}");
        }
    }
}

#[test]
fn a_field_that_is_something_else_is_refused() {
    let cases = [
        ("{podSelector: {}}", ""),
        ("{podSelector: null, ingress: null, policyTypes: []}", ""),
        ("[]", "spec is a list; expected a map"),
        (
            "{podSelector: web}",
            "spec.podSelector is a text; expected a map",
        ),
        (
            "{podSelector: {matchLabels: [app]}}",
            "spec.podSelector.matchLabels is a list",
        ),
        (
            "{podSelector: {matchLabels: {app: {a: b}}}}",
            "matchLabels.app is a map",
        ),
        (
            "{podSelector: {matchExpressions: {key: a}}}",
            "matchExpressions is a map",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "another operator",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: NotIn}]}}",
            "spec.podSelector.matchExpressions[0] has no values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "has values; expected none",
        ),
        (
            "{podSelector: {}, policyTypes: Ingress}",
            "policyTypes is a text; expected a list",
        ),
        (
            "{podSelector: {}, policyTypes: [Engress]}",
            "other than Ingress and Egress",
        ),
        (
            "{podSelector: {}, ingress: {from: []}}",
            "spec.ingress is a map; expected a list",
        ),
        (
            "{podSelector: {}, ingress: [{from: {podSelector: {}}}]}",
            "spec.ingress[0].from is a map; expected a list",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0] is empty",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "spec.egress[0].to[0] has an ipBlock beside selectors",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [ten]}}]}]}",
            "no prefix",
        ),
        (
            "{podSelector: {}, ingress: [{ports: 80}]}",
            "spec.ingress[0].ports is a number",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [80]}]}",
            "ports[0] is a number; expected a map",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: [80]}]}]}",
            "ports[0].port is a list",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: high}]}]}",
            "endPort is a text; expected a number",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{endPort: 90}]}]}",
            "an endPort without a port",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: http, endPort: 90}]}]}",
            "an endPort without a port that is a number",
        ),
    ];
    for (spec, expected) in cases {
        check(spec, expected);
    }
}
