//! A domain of libvirt as an XML tree: what a hook reads of it, and what is added to it.

use lictor_types::GuestId;
use xmltree::{Element, EmitterConfig, Namespace, XMLNode};

/// The namespace of arguments that libvirt passes to QEMU as they are.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
const DBUS_VMSTATE: &str = "dbus-vmstate";

/// Kinds of interfaces that libvirt makes a tap for, which carries the programs.
const WITH_TAP: [&str; 3] = ["bridge", "network", "ethernet"];

/// One argument of QEMU with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QemuArgument {
    pub(crate) option: &'static str,
    pub(crate) value: String,
}

/// A domain.
#[derive(Debug)]
pub(crate) struct Domain(Element);

impl Domain {
    /// Parses what libvirt prints.
    pub(crate) fn parse(xml: &[u8]) -> Result<Self, String> {
        let root = Element::parse(xml).map_err(|error| format!("no XML: {error}"))?;
        if root.name == "domain" {
            Ok(Self(root))
        } else {
            Err(format!("expected <domain>, found <{}>", root.name))
        }
    }

    /// The guest, whose name is the domain's.
    pub(crate) fn guest(&self) -> Result<GuestId, String> {
        let name = self.0.get_child("name").and_then(Element::get_text);
        let name = name.ok_or("the domain has no <name>; expected the guest's")?;
        GuestId::new(name.trim()).map_err(|error| {
            format!(
                "the domain's name {name:?} is no guest's: {error}; name it as its binding does"
            )
        })
    }

    /// The taps of all interfaces, or all interfaces that have none.
    pub(crate) fn taps(&self) -> Result<Vec<String>, String> {
        let devices = self.0.get_child("devices").into_iter();
        let devices = devices.flat_map(|devices| &devices.children);
        let interfaces = devices.filter_map(XMLNode::as_element);
        let (mut taps, mut faults) = (Vec::new(), Vec::new());
        for interface in interfaces.filter(|one| one.name == "interface") {
            match tap(interface) {
                Ok(tap) => taps.push(tap),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            Ok(taps)
        } else {
            Err(faults.join("; "))
        }
    }

    /// Adds arguments for QEMU, except those that are there already.
    pub(crate) fn add(&mut self, arguments: &[QemuArgument]) -> Result<(), String> {
        let present = self.values();
        let ours = |value: &String| arguments.iter().any(|one| one.value == *value);
        let foreign = present
            .iter()
            .find(|value| value.contains(DBUS_VMSTATE) && !ours(value));
        if let Some(value) = foreign {
            return Err(format!(
                "the domain passes {value:?} to QEMU, which takes one {DBUS_VMSTATE} only; take \
                 it out of the definition"
            ));
        }
        let missing = arguments
            .iter()
            .filter(|one| !present.contains(&one.value))
            .flat_map(|one| [one.option, &one.value]);
        let missing: Vec<_> = missing.map(ToOwned::to_owned).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let command_line = self.command_line();
        let prefix = command_line.prefix.clone();
        let argument = |value| {
            let mut argument = Element::new("arg");
            argument.prefix.clone_from(&prefix);
            argument.namespace = Some(QEMU.into());
            argument.attributes.insert("value".into(), value);
            XMLNode::Element(argument)
        };
        command_line
            .children
            .extend(missing.into_iter().map(argument));
        Ok(())
    }

    /// Values of all arguments that the domain passes to QEMU.
    fn values(&self) -> Vec<String> {
        let elements = self.0.children.iter().filter_map(XMLNode::as_element);
        let arguments = elements
            .filter(|one| is_command_line(one))
            .flat_map(|one| &one.children)
            .filter_map(XMLNode::as_element);
        arguments
            .filter_map(|one| one.attributes.get("value").cloned())
            .collect()
    }

    /// The element with QEMU's arguments, made if there is none.
    fn command_line(&mut self) -> &mut Element {
        let elements = self.0.children.iter();
        let found = elements
            .map(|node| node.as_element().is_some_and(is_command_line))
            .position(|found| found);
        let at = found.unwrap_or(self.0.children.len());
        if found.is_none() {
            let mut element = Element::new("commandline");
            let mut namespaces = Namespace::empty();
            namespaces.put("qemu", QEMU);
            element.prefix = Some("qemu".into());
            element.namespace = Some(QEMU.into());
            element.namespaces = Some(namespaces);
            self.0.children.push(XMLNode::Element(element));
        }
        self.0.children[at]
            .as_mut_element()
            .expect("it was found or made as an element")
    }

    /// As libvirt takes it.
    pub(crate) fn print(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let config = EmitterConfig::new().write_document_declaration(false);
        let written = self.0.write_with_config(&mut bytes, config);
        written.map_err(|error| format!("it cannot be written: {error}"))?;
        String::from_utf8(bytes).map_err(|error| format!("it cannot be written: {error}"))
    }
}

fn is_command_line(element: &Element) -> bool {
    element.name == "commandline" && element.namespace.as_deref() == Some(QEMU)
}

fn tap(interface: &Element) -> Result<String, String> {
    let child = |name, attribute| {
        let child = interface.get_child(name)?;
        child.attributes.get(attribute).cloned()
    };
    let kind = interface.attributes.get("type").map_or("", String::as_str);
    let mac = child("mac", "address").unwrap_or_else(|| "without a MAC".into());
    if !WITH_TAP.contains(&kind) {
        return Err(format!(
            "interface {mac} is of type {kind:?}, which no hook guards; expected one of {}",
            WITH_TAP.join(", ")
        ));
    }
    child("target", "dev").ok_or_else(|| {
        format!("interface {mac} has no <target dev='...'/>; name its tap as its binding does")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: &str = "<interface type='bridge'><mac address='52:54:00:77:00:10'/>\
                       <target dev='db-0'/></interface>";

    fn domain(devices: &str, more: &str) -> Domain {
        let xml = format!(
            "<?xml version='1.0'?><domain type='qemu' id='3'><!-- kept --><name>db</name>\
             <devices>{devices}</devices>{more}</domain>"
        );
        Domain::parse(xml.as_bytes()).expect("a domain")
    }

    fn monitor() -> [QemuArgument; 1] {
        let value = "unix:/run/lictor/qemu-db.sock,server=on,wait=off".into();
        let option = "-qmp";
        [QemuArgument { option, value }]
    }

    #[test]
    fn what_is_no_domain_of_a_guest_is_said_to_be_none() {
        let check = |xml: &str, part: &str| {
            let found = Domain::parse(xml.as_bytes()).and_then(|domain| domain.guest());
            let error = found.expect_err(xml);
            assert!(error.contains(part), "{xml}: {error}");
        };
        check("", "no XML");
        check("<domain><name>db</name>", "no XML");
        check("<network><name>db</name></network>", "found <network>");
        check("<domain/>", "no <name>");
        check("<domain><name>a b/c</name></domain>", "is no guest's");
        assert_eq!(domain("", "").guest().expect("a guest").as_str(), "db");
    }

    #[test]
    fn every_interface_needs_a_tap_and_all_without_one_are_named() {
        assert_eq!(domain(NIC, "").taps(), Ok(vec!["db-0".to_owned()]));
        assert_eq!(domain("<disk type='file'/>", "").taps(), Ok(vec![]));
        let faults = domain(
            "<interface type='hostdev'><mac address='52:54:00:77:00:11'/></interface>\
             <interface type='network'><mac address='52:54:00:77:00:12'/></interface>",
            "",
        );
        let faults = faults.taps().expect_err("neither is guarded");
        for part in ["00:11 is of type \"hostdev\"", "00:12 has no <target"] {
            assert!(faults.contains(part), "{faults}");
        }
    }

    #[test]
    fn arguments_are_added_once_and_the_rest_is_kept() {
        let check = |more: &str, before: &[&str]| {
            let mut domain = domain(NIC, more);
            domain.add(&monitor()).expect("added");
            let xml = domain.print().expect("printed");
            let mut again = Domain::parse(xml.as_bytes()).expect("well-formed");
            let monitor = monitor();
            let added = ["-qmp", monitor[0].value.as_str()];
            assert_eq!(again.values(), [before, &added].concat(), "{xml}");
            assert!(xml.contains("<!-- kept -->"), "{xml}");
            assert_eq!(again.taps(), Ok(vec!["db-0".to_owned()]));
            again.add(&monitor).expect("it is there");
            assert_eq!(again.print().expect("printed"), xml);
        };
        check("", &[]);
        // Another prefix for the same namespace, and an element that only looks like ours.
        check(
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <q:arg value='-S'/></q:commandline>",
            &["-S"],
        );
        check("<commandline><arg value='-S'/></commandline>", &[]);
    }

    #[test]
    fn a_foreign_interlock_is_refused() {
        let mut domain = domain(
            "",
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <qemu:arg value='-object'/><qemu:arg value='dbus-vmstate,id=x'/></qemu:commandline>",
        );
        let error = domain.add(&monitor()).expect_err("QEMU takes one");
        assert!(error.contains("dbus-vmstate,id=x"), "{error}");
    }
}
