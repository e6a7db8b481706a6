//! What the fields of objects must be. A list where a map is expected would read as nothing at all,
//! and in Kubernetes nothing is everybody: such an object is refused, as its API server does.

use super::Object;
use crate::ImportError;
use crate::draft::prefix;
use crate::value::{list, scalar, str};
use serde_json::Value;

/// What a field must be, if it is there.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Text,
    /// A text, number or truth.
    Scalar,
    /// A number without fraction, or its text.
    Whole,
    /// Keys with scalars.
    Labels,
    List(&'static Shape),
    /// Fields that are read; others are told elsewhere.
    Map(Fields),
    /// A map with a rule of its own beside.
    Ruled(Fields, fn(&Value) -> Option<&'static str>),
}

type Fields = &'static [(&'static str, Shape)];

const SELECTOR: Shape = Shape::Map(&[
    ("matchLabels", Shape::Labels),
    ("matchExpressions", Shape::List(&EXPRESSION)),
]);
const EXPRESSION: Shape = Shape::Ruled(
    &[
        ("key", Shape::Scalar),
        ("operator", Shape::Scalar),
        ("values", Shape::List(&Shape::Scalar)),
    ],
    |one| match (str(one, "operator"), list(one, "values").is_empty()) {
        ("In" | "NotIn", true) => Some("has no values; expected at least one"),
        ("Exists" | "DoesNotExist", false) => Some("has values; expected none"),
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => None,
        _ => Some("has another operator than In, NotIn, Exists and DoesNotExist"),
    },
);
const BLOCK: Shape = Shape::Ruled(
    &[
        ("cidr", Shape::Scalar),
        ("except", Shape::List(&Shape::Scalar)),
    ],
    |block| {
        let mut all = list(block, "except").iter().chain([&block["cidr"]]);
        let wrong = all.any(|one| prefix(&scalar(one)).is_none());
        wrong.then_some("has an address that is no prefix; expected such as 10.0.0.0/8")
    },
);
const PEER: Shape = Shape::Ruled(
    &[
        ("podSelector", SELECTOR),
        ("namespaceSelector", SELECTOR),
        ("ipBlock", BLOCK),
    ],
    |peer| {
        let has = |field: &str| !peer[field].is_null();
        let selects = has("podSelector") || has("namespaceSelector");
        let nothing = peer.as_object().is_none_or(serde_json::Map::is_empty);
        match (has("ipBlock"), selects) {
            (true, true) => Some("has an ipBlock beside selectors; expected two peers"),
            _ if nothing => Some("is empty; expected a podSelector, namespaceSelector or ipBlock"),
            _ => None,
        }
    },
);
const PORT: Shape = Shape::Ruled(
    &[
        ("protocol", Shape::Scalar),
        ("port", Shape::Scalar),
        ("endPort", Shape::Whole),
    ],
    |port| {
        let number = scalar(&port["port"]).parse::<u16>().is_ok();
        let alone = !port["endPort"].is_null() && !number;
        alone.then_some("has an endPort without a port that is a number")
    },
);
const NETWORK_POLICY: Shape = Shape::Ruled(
    &[
        ("podSelector", SELECTOR),
        ("policyTypes", Shape::List(&Shape::Scalar)),
        (
            "ingress",
            Shape::List(&Shape::Map(&[
                ("from", Shape::List(&PEER)),
                ("ports", Shape::List(&PORT)),
            ])),
        ),
        (
            "egress",
            Shape::List(&Shape::Map(&[
                ("to", Shape::List(&PEER)),
                ("ports", Shape::List(&PORT)),
            ])),
        ),
    ],
    |spec| {
        let known =
            |one: &Value| ["ingress", "egress"].contains(&scalar(one).to_lowercase().as_str());
        let types = list(spec, "policyTypes").iter().all(known);
        (!types).then_some("has a policyType other than Ingress and Egress")
    },
);

const PODS: Shape = Shape::Map(&[("namespaceSelector", SELECTOR), ("podSelector", SELECTOR)]);
const NAMESPACES: Shape = Shape::Map(&[
    ("matchLabels", Shape::Labels),
    ("matchExpressions", Shape::List(&EXPRESSION)),
    ("namespaceSelector", SELECTOR),
]);
const ADMIN_PEER: Shape = Shape::Map(&[
    ("namespaces", NAMESPACES),
    ("pods", PODS),
    ("nodes", SELECTOR),
    ("networks", Shape::List(&Shape::Scalar)),
    ("domainNames", Shape::List(&Shape::Scalar)),
]);
const RANGE: Shape = Shape::Map(&[
    ("protocol", Shape::Scalar),
    ("start", Shape::Whole),
    ("end", Shape::Whole),
]);
const ADMIN_PORT: Shape = Shape::Map(&[
    (
        "portNumber",
        Shape::Map(&[("protocol", Shape::Scalar), ("port", Shape::Whole)]),
    ),
    ("portRange", RANGE),
    ("namedPort", Shape::Scalar),
]);
const DESTINATION: Shape = Shape::Map(&[(
    "destinationPort",
    Shape::Map(&[("number", Shape::Whole), ("range", RANGE)]),
)]);
const PROTOCOL: Shape = Shape::Map(&[
    ("tcp", DESTINATION),
    ("udp", DESTINATION),
    ("sctp", DESTINATION),
    ("destinationNamedPort", Shape::Scalar),
]);
const ADMIN_RULE: Shape = Shape::Map(&[
    ("name", Shape::Scalar),
    ("action", Shape::Scalar),
    ("from", Shape::List(&ADMIN_PEER)),
    ("to", Shape::List(&ADMIN_PEER)),
    ("ports", Shape::List(&ADMIN_PORT)),
    ("protocols", Shape::List(&PROTOCOL)),
]);
const ADMIN_POLICY: Shape = Shape::Map(&[
    ("priority", Shape::Whole),
    ("tier", Shape::Scalar),
    ("subject", ADMIN_PEER),
    ("ingress", Shape::List(&ADMIN_RULE)),
    ("egress", Shape::List(&ADMIN_RULE)),
]);

const META: Shape = Shape::Map(&[
    ("name", Shape::Text),
    ("namespace", Shape::Text),
    ("labels", Shape::Labels),
]);
const CONTAINERS: Shape = Shape::List(&Shape::Map(&[(
    "ports",
    Shape::List(&Shape::Map(&[
        ("name", Shape::Scalar),
        ("containerPort", Shape::Scalar),
        ("protocol", Shape::Scalar),
    ])),
)]));
const POD: Shape = Shape::Map(&[("containers", CONTAINERS), ("initContainers", CONTAINERS)]);
const TEMPLATE: Shape = Shape::Map(&[("metadata", META), ("spec", POD)]);
const WORKLOAD: Shape = Shape::Map(&[("template", TEMPLATE)]);
const CRON_JOB: Shape = Shape::Map(&[("jobTemplate", Shape::Map(&[("spec", WORKLOAD)]))]);

/// Refuses an object of which a field that is read is something else.
pub(super) fn check(object: &Object) -> Result<(), ImportError> {
    let spec = match object.kind.as_str() {
        "NetworkPolicy" => NETWORK_POLICY,
        "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" | "ClusterNetworkPolicy" => {
            ADMIN_POLICY
        }
        "Namespace" => Shape::Map(&[]),
        "Pod" | "VirtualMachineInstance" => POD,
        "CronJob" => CRON_JOB,
        kind if super::estate::KINDS.contains(&kind) => WORKLOAD,
        _ => return Ok(()),
    };
    let parts = [("metadata", META), ("spec", spec)];
    for (field, shape) in parts {
        shape.check(&object.value[field], field).map_err(|what| {
            let path = object.place.clone();
            ImportError::File { path, what }
        })?;
    }
    Ok(())
}

impl Shape {
    fn check(self, value: &Value, at: &str) -> Result<(), String> {
        let (right, expected) = match self {
            _ if value.is_null() => return Ok(()),
            Self::Text => (value.is_string(), "a text; put it into quotes"),
            Self::Scalar => (
                !value.is_object() && !value.is_array(),
                "a text or a number",
            ),
            Self::Whole => (
                scalar(value).parse::<i64>().is_ok(),
                "a number without fraction",
            ),
            Self::Labels | Self::Map(_) | Self::Ruled(..) => (value.is_object(), "a map"),
            Self::List(_) => (value.is_array(), "a list"),
        };
        if !right {
            return Err(format!("{at} is {}; expected {expected}", kind(value)));
        }
        match self {
            Self::Text | Self::Scalar | Self::Whole => Ok(()),
            Self::Labels => {
                let mut pairs = value.as_object().into_iter().flatten();
                pairs.try_for_each(|(key, one)| Self::Scalar.check(one, &format!("{at}.{key}")))
            }
            Self::List(inner) => {
                let mut items = value.as_array().into_iter().flatten().enumerate();
                items.try_for_each(|(place, one)| inner.check(one, &format!("{at}[{place}]")))
            }
            Self::Map(fields) => each(fields, value, at),
            Self::Ruled(fields, rule) => {
                each(fields, value, at)?;
                rule(value).map_or(Ok(()), |what| Err(format!("{at} {what}")))
            }
        }
    }
}

fn each(fields: Fields, value: &Value, at: &str) -> Result<(), String> {
    let mut fields = fields.iter();
    fields.try_for_each(|(field, shape)| shape.check(&value[field], &format!("{at}.{field}")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
