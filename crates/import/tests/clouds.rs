//! Security groups of clouds and of NSX in the forms in which their tools print them.

mod support;

use lictor_import::{Effect, Format};
use support::{check, imported, noted, source};

#[test]
fn answers_of_aws_are_read_whatever_wraps_them() {
    // `--query` leaves bare lists; rules may be printed apart; prefix lists have their own answer.
    let groups = r#"[{"GroupId":"sg-1","GroupName":"web","Description":"w",
        "IpPermissions":[{"IpProtocol":"tcp","FromPort":22,"ToPort":22,
            "PrefixListIds":[{"PrefixListId":"pl-1"}]}]}]"#;
    let rules = r#"{"SecurityGroupRules":[
        {"SecurityGroupRuleId":"sgr-1","GroupId":"sg-2","IsEgress":false,"IpProtocol":"udp",
         "FromPort":53,"ToPort":53,"ReferencedGroupInfo":{"GroupId":"sg-1"}},
        {"SecurityGroupRuleId":"sgr-2","GroupId":"sg-2","IsEgress":true,"IpProtocol":"-1",
         "FromPort":-1,"ToPort":-1,"CidrIpv4":"0.0.0.0/0"},
        {"SecurityGroupRuleId":"sgr-3","GroupId":"sg-1","IsEgress":true,"IpProtocol":"-1",
         "CidrIpv4":"10.0.0.0/8"}]}"#;
    let lists = r#"{"PrefixLists":[{"PrefixListId":"pl-1","PrefixListName":"office",
        "Cidrs":["192.0.2.0/24"]}]}"#;
    let machines = r#"[[{"InstanceId":"i-1","State":{"Name":"running"},
        "PrivateIpAddress":"10.0.0.4","SecurityGroups":[{"GroupId":"sg-1"}]},
       {"InstanceId":"i-gone","State":{"Name":"terminated"},"SecurityGroups":[]}]]"#;
    let vnics = r#"{"NetworkInterfaces":[
        {"NetworkInterfaceId":"eni-2","PrivateIpAddress":"10.0.0.5",
         "Groups":[{"GroupId":"sg-2"}],"Attachment":{"InstanceId":"i-2"}},
        {"NetworkInterfaceId":"eni-3","PrivateIpAddress":"10.0.0.6",
         "Groups":[{"GroupId":"sg-1"}],"Attachment":{"InstanceId":"i-2"}}]}"#;
    let files = [groups, rules, lists, machines, vnics];
    let files: Vec<_> = files.iter().zip(0..).collect();
    let files: Vec<_> = files
        .iter()
        .map(|(text, n)| source(&format!("{n}.json"), text.as_bytes()))
        .collect();
    let found = imported(Format::Sg, &files);
    check(&found, "192.0.2.9 i-1 tcp/22", "- allow");
    check(&found, "192.0.3.9 i-1 tcp/22", "- deny");
    check(&found, "i-1 i-2 udp/53", "allow allow");
    check(&found, "i-1 i-2 udp/54", "allow deny");
    check(&found, "i-2 203.0.113.1 tcp/1", "allow -");
    check(&found, "i-1 203.0.113.1 tcp/1", "deny -");
    noted(&found, Effect::Opens, "different groups");
    let estate = found.estate.expect("machines");
    let names: Vec<_> = estate.guests.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["i-1", "i-2"], "what is terminated is no guest");
}

const TEMPLATE: &str = r#"{"Parameters":{"Office":{"Type":"String","Default":"192.0.2.0/24"},
     "Other":{"Type":"String"}},
  "Resources":{
    "Web":{"Type":"AWS::EC2::SecurityGroup","Properties":{"GroupDescription":"w",
      "SecurityGroupIngress":[
        {"IpProtocol":"tcp","FromPort":"80","ToPort":"80","CidrIp":"0.0.0.0/0"},
        {"IpProtocol":"tcp","FromPort":22,"ToPort":22,"CidrIp":{"Ref":"Office"}},
        {"IpProtocol":"tcp","FromPort":23,"ToPort":23,"CidrIp":{"Ref":"Other"}},
        {"IpProtocol":"tcp","FromPort":"http","ToPort":"http","CidrIp":"0.0.0.0/0"}]}},
    "Db":{"Type":"AWS::EC2::SecurityGroup","Properties":{"GroupDescription":"d",
      "SecurityGroupEgress":[{"IpProtocol":"-1","CidrIp":"10.0.0.0/8"}]}},
    "Rule":{"Type":"AWS::EC2::SecurityGroupIngress","Properties":{"GroupId":{"Ref":"Db"},
      "IpProtocol":"tcp","FromPort":5432,"ToPort":5432,
      "SourceSecurityGroupId":{"Fn::GetAtt":["Web","GroupId"]}}},
    "One":{"Type":"AWS::EC2::Instance","Properties":{"PrivateIpAddress":"10.0.0.4",
      "SecurityGroupIds":[{"Fn::GetAtt":"Web.GroupId"}]}},
    "Two":{"Type":"AWS::EC2::Instance","Properties":{"NetworkInterfaces":[
      {"PrivateIpAddress":"10.0.0.5","GroupSet":[{"Ref":"Db"}]}]}},
    "Bucket":{"Type":"AWS::S3::Bucket"}}}"#;

const STATE: &str = r#"{"version":4,"terraform_version":"1.9.0","resources":[
  {"mode":"managed","type":"aws_security_group","name":"web","instances":[{"attributes":{
    "id":"Web","name":"web",
    "ingress":[{"from_port":80,"to_port":80,"protocol":"tcp","cidr_blocks":["0.0.0.0/0"],
      "ipv6_cidr_blocks":[],"prefix_list_ids":[],"security_groups":[],"self":false,
      "description":""}],
    "egress":[{"from_port":0,"to_port":0,"protocol":"-1","cidr_blocks":["0.0.0.0/0"]}]}}]},
  {"type":"aws_security_group","name":"db","instances":[{"attributes":{"id":"Db","name":"db",
    "ingress":[],"egress":[]}}]},
  {"type":"aws_security_group_rule","name":"r","instances":[{"attributes":{"id":"sgr-1",
    "type":"ingress","security_group_id":"Db","protocol":"tcp","from_port":5432,"to_port":5432,
    "source_security_group_id":"Web","self":false}}]},
  {"type":"aws_vpc_security_group_ingress_rule","name":"s","instances":[{"attributes":{
    "id":"sgr-2","security_group_id":"Web","ip_protocol":"tcp","from_port":22,"to_port":22,
    "cidr_ipv4":"192.0.2.0/24"}}]},
  {"type":"aws_vpc_security_group_egress_rule","name":"e","instances":[{"attributes":{
    "id":"sgr-3","security_group_id":"Db","ip_protocol":"-1","cidr_ipv4":"10.0.0.0/8"}}]},
  {"type":"aws_instance","name":"one","instances":[{"attributes":{"id":"One",
    "vpc_security_group_ids":["Web"],"private_ip":"10.0.0.4"}}]},
  {"type":"aws_network_interface","name":"two","instances":[{"attributes":{"id":"Two",
    "security_groups":["Db"],"private_ip":"10.0.0.5"}}]}]}"#;

#[test]
fn templates_and_states_say_what_aws_says_of_what_they_make() {
    // `terraform show -json` has the same resources in a tree of modules.
    let state: serde_json::Value = serde_json::from_str(STATE).expect("JSON");
    let resources = state["resources"].as_array().expect("a list").iter();
    let resources = resources.map(|one| {
        serde_json::json!({
            "address": one["name"], "type": one["type"],
            "values": one["instances"][0]["attributes"],
        })
    });
    let shown = serde_json::json!({"format_version": "1.0", "values": {"root_module": {
        "child_modules": [{"resources": resources.collect::<Vec<_>>()}]}}});
    for text in [TEMPLATE, STATE, &shown.to_string()] {
        let found = imported(Format::Sg, &[source("one.json", text.as_bytes())]);
        check(&found, "203.0.113.1 One tcp/80", "- allow");
        check(&found, "203.0.113.1 One tcp/81", "- deny");
        check(&found, "192.0.2.9 One tcp/22", "- allow");
        check(&found, "203.0.113.1 One tcp/22", "- deny");
        check(&found, "203.0.113.1 One tcp/23", "- deny");
        check(&found, "One 203.0.113.1 udp/9", "allow -");
        check(&found, "One Two tcp/5432", "allow allow");
        check(&found, "One Two tcp/5433", "allow deny");
        check(&found, "Two One tcp/80", "allow allow");
        check(&found, "Two 203.0.113.1 tcp/80", "deny -");
    }
    let found = imported(Format::Sg, &[source("one.json", TEMPLATE.as_bytes())]);
    noted(&found, Effect::Closes, "not answered by the template");
    noted(&found, Effect::Closes, "are no range");
}

#[test]
fn groups_of_a_subnet_and_of_an_interface_must_both_allow() {
    let rule = |name: &str, way: &str, port: &str| {
        format!(
            r#"{{"name":"{name}","properties":{{"priority":100,"direction":"{way}",
            "access":"Allow","protocol":"Tcp","sourceAddressPrefix":"Storage",
            "sourcePortRange":"*","destinationAddressPrefix":"*",
            "destinationPortRanges":["{port}"]}}}}"#
        )
    };
    let nsg = |id: &str, name: &str, rules: &str| {
        format!(
            r#"{{"id":"{id}","name":"{name}",
            "properties":{{"securityRules":[{rules}]}}}}"#
        )
    };
    let groups = format!(
        r#"{{"value":[{},{},{}]}}"#,
        nsg("/a/Web", "Web", &rule("in", "Inbound", "80-90")),
        nsg("/a/net", "net", &rule("in", "Inbound", "85-95")),
        nsg("/b/web", "web", &rule("other", "Inbound", "7")),
    );
    let nets = r#"{"name":"v","properties":{"subnets":[{"id":"/a/v/S1",
        "properties":{"networkSecurityGroup":{"id":"/a/net"}}}]}}"#;
    let nics = r#"[{"name":"both","networkSecurityGroup":{"id":"/A/WEB"},
         "ipConfigurations":[{"privateIpAddress":"10.0.0.4","subnet":{"id":"/a/v/s1"}}]},
        {"name":"subnet","ipConfigurations":[{"subnet":{"id":"/a/V/s1"}}]},
        {"name":"none","ipConfigurations":[{"subnet":{"id":"/a/v/s2"}}]}]"#;
    let tags = r#"{"values":[{"name":"Storage","id":"Storage",
        "properties":{"addressPrefixes":["192.0.2.0/24","2001:db8::/32"]}}]}"#;
    let found = imported(
        Format::Nsg,
        &[
            source("nsg.json", groups.as_bytes()),
            source("vnet.json", nets.as_bytes()),
            source("nic.json", nics.as_bytes()),
            source("tags.json", tags.as_bytes()),
        ],
    );
    check(&found, "192.0.2.1 both tcp/80", "- deny");
    check(&found, "192.0.2.1 both tcp/87", "- allow");
    check(&found, "192.0.2.1 both tcp/95", "- deny");
    check(&found, "192.0.2.1 subnet tcp/95", "- allow");
    check(&found, "192.0.2.1 subnet tcp/7", "- deny");
    check(&found, "203.0.113.1 both tcp/87", "- deny");
    check(&found, "both subnet udp/1", "allow allow");
    noted(&found, Effect::Closes, "no group is about this guest");
    assert!(!found.notes.iter().any(|note| note.effect == Effect::Opens));
}

#[test]
fn a_rule_of_azure_with_source_ports_widens_nothing() {
    let group = r#"[{"name":"g","id":"/g","securityRules":[
        {"name":"ntp","priority":100,"direction":"Inbound","access":"Allow","protocol":"Udp",
         "sourceAddressPrefix":"*","sourcePortRange":"123","destinationAddressPrefix":"*",
         "destinationPortRange":"*"}]}]"#;
    let found = imported(Format::Nsg, &[source("g.json", group.as_bytes())]);
    check(&found, "192.0.2.1 nsg.g:yes udp/5", "- deny");
    noted(&found, Effect::Closes, "source ports");
}

#[test]
fn the_tree_and_the_lists_of_nsx_are_one_configuration() {
    let tree = r#"{"resource_type":"Infra","children":[
      {"resource_type":"ChildService","Service":{"resource_type":"Service","path":"/infra/s/web",
        "service_entries":[{"resource_type":"L4PortSetServiceEntry","l4_protocol":"TCP",
          "destination_ports":["80","8000-8010"]},
         {"resource_type":"L4PortSetServiceEntry","l4_protocol":"UDP","source_ports":["53"]}]}},
      {"resource_type":"ChildDomain","Domain":{"resource_type":"Domain","children":[
        {"resource_type":"ChildGroup","Group":{"resource_type":"Group","path":"/d/g/web",
          "display_name":"web","expression":[{"resource_type":"Condition",
            "member_type":"VirtualMachine","key":"Tag","operator":"EQUALS","value":"app|web"}]}},
        {"resource_type":"ChildSecurityPolicy","SecurityPolicy":{
          "resource_type":"SecurityPolicy","display_name":"p","category":"Application",
          "children":[
           {"resource_type":"ChildRule","Rule":{"display_name":"in","action":"ALLOW",
            "source_groups":["10.9.0.0/16"],"destination_groups":["/d/g/web"],
            "services":["/infra/s/web"],"sequence_number":1}},
           {"resource_type":"ChildRule","Rule":{"display_name":"l7","action":"ALLOW",
            "source_groups":["ANY"],"destination_groups":["ANY"],"services":["ANY"],
            "profiles":["/infra/context-profiles/SSL"],"sequence_number":2}},
           {"resource_type":"ChildRule","Rule":{"display_name":"v4","action":"ALLOW",
            "source_groups":["ANY"],"destination_groups":["ANY"],"services":["ANY"],
            "direction":"OUT","ip_protocol":"IPV4","sequence_number":3}}]}}]}}]}"#;
    let machines = r#"{"results":[
        {"resource_type":"VirtualMachine","external_id":"1","display_name":"a",
         "tags":[{"scope":"app","tag":"web"}]},
        {"resource_type":"VirtualMachine","external_id":"2","display_name":"b"}]}"#;
    let vnics = r#"{"results":[{"resource_type":"VirtualNetworkInterface","owner_vm_id":"2",
        "lport_attachment_id":"p2"}]}"#;
    let segments = r#"{"results":[{"resource_type":"Segment","path":"/s/1","display_name":"s",
        "subnets":[{"gateway_address":"10.9.1.1/24"}]},
        {"resource_type":"SegmentPort","parent_path":"/s/1","attachment":{"id":"p2"}}]}"#;
    let found = imported(
        Format::Nsx,
        &[
            source("infra.json", tree.as_bytes()),
            source("vms.json", machines.as_bytes()),
            source("vifs.json", vnics.as_bytes()),
            source("segments.json", segments.as_bytes()),
        ],
    );
    check(&found, "10.9.0.1 a tcp/8005", "- allow");
    check(&found, "10.8.0.1 a tcp/8005", "- deny");
    // The addresses of `b` are not told; its segment's subnet lies inside of the rule's.
    check(&found, "b a tcp/80", "allow allow");
    // The entry with a source port and the rule with a context profile would allow more.
    check(&found, "10.9.0.1 a udp/9", "- deny");
    check(&found, "a 192.0.2.1 udp/9", "allow -");
    check(&found, "a 2001:db8::1 udp/9", "deny -");
    noted(&found, Effect::Closes, "context profiles");
    noted(&found, Effect::Closes, "source ports");
    noted(&found, Effect::None, "its segment's subnet");
}

#[test]
fn a_template_of_azure_is_read_with_what_stands_beside_and_inside_of_its_resources() {
    let rule = |name: &str, priority: u8, access: &str, port: &str| {
        format!(
            r#"{{"type":"{name}","name":"{port}","properties":{{"priority":"{priority}",
            "direction":"Inbound","access":"{access}","protocol":"Tcp",
            "sourceAddressPrefix":"[variables('office')]","sourcePortRange":"*",
            "destinationAddressPrefix":"*","destinationPortRange":"{port}"}}}}"#
        )
    };
    let beside = rule(
        "Microsoft.Network/networkSecurityGroups/securityRules",
        110,
        "Allow",
        "80-90",
    )
    .replace(
        "\"name\":\"80-90\"",
        "\"name\":\"[concat(parameters('nsg'), '/web')]\"",
    );
    let template = format!(
        r#"{{"$schema":
            "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "parameters":{{"nsg":{{"type":"string","defaultValue":"edge"}},
            "secret":{{"type":"string"}}}},
        "variables":{{"office":"192.0.2.0/24","net":"[toLower('VNET')]"}},
        "resources":[
        {{"type":"Microsoft.Network/networkSecurityGroups","name":"[parameters('nsg')]",
          "resources":[{}]}},
        {beside},
        {{"type":"Microsoft.Network/virtualNetworks","name":"[variables('net')]",
          "properties":{{"subnets":[{{"name":"s1","properties":{{"networkSecurityGroup":{{
            "id":"[resourceId('Microsoft.Network/networkSecurityGroups', parameters('nsg'))]"
          }}}}}}]}}}},
        {{"type":"Microsoft.Network/networkInterfaces",
          "condition":"[equals(parameters('secret'),'')]",
          "name":"[concat('nic', copyIndex('each', 1))]","copy":{{"name":"each","count":2}},
          "properties":{{"ipConfigurations":[{{"properties":{{"subnet":{{"id":
            "[resourceId('Microsoft.Network/virtualNetworks/subnets', variables('net'), 's1')]"
          }}}}}}]}}}},
        {{"type":"Microsoft.Network/networkSecurityGroups","name":"[parameters('secret')]",
          "properties":{{"securityRules":[]}}}}]}}"#,
        rule("securityRules", 100, "Deny", "85")
    );
    let found = imported(
        Format::Nsg,
        &[source("azuredeploy.json", template.as_bytes())],
    );
    check(&found, "192.0.2.1 nic2 tcp/84", "- allow");
    check(&found, "192.0.2.1 nic2 tcp/85", "- deny");
    check(&found, "192.0.2.1 nic2 tcp/91", "- deny");
    check(&found, "203.0.113.1 nic1 tcp/84", "- deny");
    check(&found, "nic1 203.0.113.1 tcp/84", "allow -");
    noted(&found, Effect::Opens, "whether its `condition` holds");
}

#[test]
fn what_stands_in_place_of_a_list_is_not_nothing() {
    let nsg = r#"[{"name":"web","securityRules":[{"name":"in","priority":100,
        "direction":"Inbound","access":"Allow","protocol":"Tcp","sourcePortRanges":"*",
        "sourceAddressPrefixes":"192.0.2.0/24","destinationAddressPrefix":"*",
        "destinationPortRanges":"443"}],"defaultSecurityRules":[]}]"#;
    let nics = r#"[{"name":"one","networkSecurityGroup":{"id":"web"},
        "ipConfigurations":[{"privateIpAddress":"10.0.0.4"}]}]"#;
    let files = [
        source("a.json", nsg.as_bytes()),
        source("b.json", nics.as_bytes()),
    ];
    let found = imported(Format::Nsg, &files);
    check(&found, "192.0.2.1 one tcp/443", "- allow");
    check(&found, "192.0.2.1 one tcp/444", "- deny");
    check(&found, "198.51.100.1 one tcp/443", "- deny");
}

#[test]
fn lists_of_nsx_that_come_apart_are_joined_and_what_is_sent_to_it_is_read() {
    // Lists of policies have no rules; what is sent has ids and no paths; truths may be texts.
    let policies = r#"{"results":[{"resource_type":"SecurityPolicy","id":"p",
        "path":"/infra/domains/default/security-policies/p","category":"Application"}]}"#;
    let rules = r#"{"results":[
        {"resource_type":"Rule","id":"in","action":"ALLOW","sequence_number":1,
         "path":"/infra/domains/default/security-policies/p/rules/in",
         "source_groups":["ANY"],"destination_groups":["/infra/domains/default/groups/web"],
         "services":["/infra/services/tcp-80"],"disabled":"false"},
        {"resource_type":"Rule","id":"off","action":"ALLOW","disabled":"true",
         "parent_path":"/infra/domains/default/security-policies/p"},
        {"resource_type":"Rule","id":"gone","action":"ALLOW","marked_for_delete":true,
         "parent_path":"/infra/domains/default/security-policies/p"},
        {"resource_type":"Rule","id":"end","action":"DROP","sequence_number":9,"is_default":true,
         "parent_path":"/infra/domains/default/security-policies/p"}]}"#;
    let sent = r#"{"resource_type":"Infra","children":[
        {"resource_type":"ChildService","Service":{"resource_type":"Service","id":"tcp-80",
         "children":[{"resource_type":"ChildServiceEntry","ServiceEntry":{
          "resource_type":"L4PortSetServiceEntry","l4_protocol":"TCP",
          "destination_ports":[80]}}]}},
        {"resource_type":"ChildDomain","Domain":{"resource_type":"Domain","id":"default",
         "children":[{"resource_type":"ChildGroup","Group":{"resource_type":"Group","id":"web",
          "expression":[{"resource_type":"Condition","member_type":"Segment","key":"Tag",
           "operator":"EQUALS","value":"net|web"}]}},
          {"resource_type":"ChildGroup","Group":{"resource_type":"Group","id":"free",
          "expression":[{"resource_type":"Condition","member_type":"VirtualMachine","key":"Name",
           "operator":"EQUALS","value":"b"}]}}]}},
        {"resource_type":"ChildSegment","Segment":{"resource_type":"Segment","id":"s",
         "tags":[{"scope":"net","tag":"web"}],"children":[{"resource_type":"ChildSegmentPort",
          "SegmentPort":{"resource_type":"SegmentPort","id":"p","attachment":{"id":"1"}}}]}},
        {"resource_type":"PolicyExcludeList","members":["/infra/domains/default/groups/free"]}]}"#;
    let machines = r#"{"results":[
        {"resource_type":"VirtualMachine","external_id":"a","display_name":"a"},
        {"resource_type":"VirtualMachine","external_id":"b","display_name":"b"},
        {"resource_type":"VirtualNetworkInterface","owner_vm_id":"a","lport_attachment_id":"1"}]}"#;
    let files = [
        source("policies.json", policies.as_bytes()),
        source("rules.json", rules.as_bytes()),
        source("sent.json", sent.as_bytes()),
        source("machines.json", machines.as_bytes()),
    ];
    let found = imported(Format::Nsx, &files);
    check(&found, "192.0.2.1 a tcp/80", "- allow");
    check(&found, "192.0.2.1 a tcp/81", "- deny");
    check(&found, "b a tcp/80", "allow allow");
    check(&found, "a b tcp/22", "deny allow");
    check(&found, "a b tcp/80", "deny allow");
    let notes = found.notes.iter();
    let told: Vec<_> = notes.filter(|note| note.effect != Effect::None).collect();
    assert!(told.is_empty(), "{told:?}");
    let alone = imported(Format::Nsx, &files[1..]);
    noted(&alone, Effect::Opens, "only its rules are in these files");
    let bare = imported(Format::Nsx, &[files[0].clone(), files[3].clone()]);
    noted(
        &bare,
        Effect::Closes,
        "the default rule is not in these files",
    );
}

#[test]
fn what_a_network_acl_denies_is_told() {
    let check = |first: &str, told: bool| {
        let text = format!(
            r#"{{"SecurityGroups":[{{"GroupId":"sg-1","IpPermissions":[]}}],"NetworkAcls":[
            {{"NetworkAclId":"acl-1","Entries":[
                {{"RuleNumber":32767,"Egress":true,"RuleAction":"deny","Protocol":"-1",
                    "CidrBlock":"0.0.0.0/0"}},
                {{"RuleNumber":100,"Egress":true,"RuleAction":"allow","Protocol":"-1",
                    "CidrBlock":"0.0.0.0/0"}},
                {{"RuleNumber":100,"Egress":false,"RuleAction":"{first}","Protocol":"-1",
                    "CidrBlock":"0.0.0.0/0"}}]}}]}}"#
        );
        let found = imported(Format::Sg, &[source("a.json", text.as_bytes())]);
        let acls = found
            .notes
            .iter()
            .filter(|note| note.place.contains("acl-1"));
        let opens = acls.filter(|note| note.effect == Effect::Opens).count();
        assert_eq!(opens, usize::from(told), "{first}: {:?}", found.notes);
    };
    check("allow", false);
    check("deny", true);
}
