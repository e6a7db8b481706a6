//! Templates of clouds: YAML with tags, functions, loops, conditions, parameters in files of their
//! own; and what Azure's tools print besides lists of groups.

mod support;

use lictor_import::{Effect, Format, import};
use support::{check, imported, noted, source};

const STACK: &str = include_str!("data/stack.yaml");

#[test]
fn a_stack_in_yaml_is_read_with_its_tags_and_functions() {
    let found = imported(Format::Sg, &[source("shop.yaml", STACK.as_bytes())]);
    check(&found, "192.0.2.7 Front tcp/443", "- allow");
    check(&found, "203.0.113.7 Front tcp/443", "- deny");
    check(&found, "Front Worker tcp/8443", "allow allow");
    check(&found, "Front Worker tcp/8444", "allow deny");
    check(&found, "203.0.113.7 Worker tcp/5", "- deny");
    check(&found, "10.0.3.4 Worker udp/53", "- allow");
    check(&found, "Worker 10.0.7.9 tcp/5432", "allow -");
    check(&found, "Worker 10.0.8.9 tcp/5432", "deny -");
    check(&found, "Worker 198.51.100.9 tcp/1", "allow -");
    noted(
        &found,
        Effect::Closes,
        "{Door} is not answered by the template",
    );
    assert!(!found.notes.iter().any(|note| note.effect == Effect::Opens));
}

#[test]
fn groups_that_two_stacks_call_alike_are_two_groups() {
    let other = STACK.replace("192.0.2.0/24", "203.0.113.0/24");
    let files = [
        source("a/shop.yaml", STACK.as_bytes()),
        source("a/bank.yml", other.as_bytes()),
    ];
    let found = imported(Format::Sg, &files);
    check(&found, "192.0.2.7 shop.Front tcp/443", "- allow");
    check(&found, "192.0.2.7 bank.Front tcp/443", "- deny");
    check(&found, "203.0.113.7 bank.Front tcp/443", "- allow");
}

#[test]
fn yaml_that_is_no_stack_or_too_deep_is_refused_with_its_place() {
    let deep = "[".repeat(1_000_000);
    let bomb = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, at| {
        let inner = format!("*a{}", at - 1);
        text + &format!("a{at}: &a{at} [{inner}, {inner}, {inner}, {inner}]\n")
    });
    let circle = "Resources: {G: {Type: AWS::EC2::SecurityGroup, Properties: &p {A: *p}}}";
    for (text, expected) in [
        (deep.as_str(), "one.yaml: "),
        (&bomb, "more than 4000000 values"),
        (circle, "an alias inside of what it names"),
        (
            "a: 1\na: 2",
            "line 2: the key \"a\" stands twice in one map",
        ),
        ("a: [1", "one.yaml: "),
        ("a: 1", "no SecurityGroups in these files"),
    ] {
        let files = [source("one.yaml", text.as_bytes())];
        let error = import(Format::Sg, "stack", &files)
            .expect_err("bad")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

const ARM: &str = include_str!("data/azuredeploy.json");

#[test]
fn a_template_of_azure_is_followed_through_loops_conditions_and_its_parameters_file() {
    let parameters = r#"{"$schema":
        "https://schema.management.azure.com/schemas/2015-01-01/deploymentParameters.json#",
        "parameters": {"office": {"value": "192.0.2.0/24"}}}"#;
    let files = [
        source("azuredeploy.json", ARM.as_bytes()),
        source("azuredeploy.parameters.json", parameters.as_bytes()),
    ];
    let found = imported(Format::Nsg, &files);
    check(&found, "192.0.2.9 web.nic tcp/443", "- allow");
    check(&found, "192.0.2.9 web.nic tcp/81", "- deny");
    check(&found, "203.0.113.9 web.nic tcp/443", "- deny");
    check(&found, "10.1.0.9 web.nic tcp/22", "- allow");
    check(&found, "10.1.0.9 web.nic tcp/3389", "- deny");
    assert!(!found.notes.iter().any(|note| note.effect == Effect::Opens));
    let alone = imported(Format::Nsg, &files[..1]);
    check(&alone, "192.0.2.9 web.nic tcp/443", "- deny");
    noted(
        &alone,
        Effect::Closes,
        "\"{office}\" is not answered by the template",
    );
}

#[test]
fn a_template_of_azure_that_makes_too_much_ends_and_says_so() {
    let mut variables = r#""v0": "0123456789abcdef""#.to_owned();
    for at in 1..30 {
        let inner = format!("variables('v{}')", at - 1);
        variables += &format!(r#", "v{at}": "[concat({inner}, {inner})]""#);
    }
    let text = format!(
        r#"{{"$schema":"https://x/deploymentTemplate.json#","variables":{{{variables}}},
        "resources":[{{"type":"Microsoft.Network/networkSecurityGroups","name":"g",
        "properties":{{"securityRules":[],"note":"[variables('v29')]"}}}}]}}"#
    );
    let found = imported(Format::Nsg, &[source("t.json", text.as_bytes())]);
    noted(&found, Effect::Opens, "make too much");
}

#[test]
fn effective_rules_single_rules_and_what_powershell_prints_are_groups_too() {
    let effective = r#"{"value":[{"association":{"networkInterface":{
          "id":"/s/providers/Microsoft.Network/networkInterfaces/one"}},
        "networkSecurityGroup":{"id":"/s/networkSecurityGroups/web"},
        "effectiveSecurityRules":[
         {"name":"securityRules/in","priority":100,"direction":"Inbound","access":"Allow",
          "protocol":"Tcp","sourceAddressPrefix":"192.0.2.0/24","sourcePortRange":"0-65535",
          "destinationAddressPrefix":"0.0.0.0/0","destinationPortRange":"80-80"},
         {"name":"defaultSecurityRules/DenyAllInBound","priority":65500,"direction":"Inbound",
          "access":"Deny","protocol":"All","sourceAddressPrefix":"0.0.0.0/0",
          "sourcePortRange":"0-65535","destinationAddressPrefix":"0.0.0.0/0",
          "destinationPortRange":"0-65535"}]}]}"#;
    let rules = r#"[{"id":"/s/networkSecurityGroups/web/securityRules/in","name":"in",
        "priority":100,"direction":"Inbound","access":"Allow","protocol":"Tcp",
        "sourceAddressPrefix":"192.0.2.0/24","sourcePortRange":"*","sourceAddressPrefixes":[],
        "destinationAddressPrefix":"*","destinationPortRange":"80"}]"#;
    let shell = r#"{"Name":"web","Id":"/s/networkSecurityGroups/web","SecurityRules":[{
        "Name":"in","Priority":100,"Direction":"Inbound","Access":"Allow","Protocol":"Tcp",
        "SourceAddressPrefix":["192.0.2.0/24"],"SourcePortRange":["*"],
        "DestinationAddressPrefix":["*"],"DestinationPortRange":["80"]}]}"#;
    for text in [effective, rules, shell] {
        let found = imported(Format::Nsg, &[source("one.json", text.as_bytes())]);
        check(&found, "192.0.2.9 nsg.web:yes tcp/80", "- allow");
        check(&found, "192.0.2.9 nsg.web:yes tcp/81", "- deny");
        check(&found, "203.0.113.9 nsg.web:yes tcp/80", "- deny");
    }
    let found = imported(Format::Nsg, &[source("one.json", effective.as_bytes())]);
    check(&found, "192.0.2.9 one tcp/80", "- allow");
}
