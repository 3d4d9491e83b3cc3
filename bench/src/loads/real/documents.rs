//! Documents as trees: JSON by `serde_json`, XML by `quick-xml`'s reader into a tree of our own.
//! No unsafe here.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};

use super::{name, sentence};
use crate::workload::{Outcome, Scale, fold, fold_bytes, measure};

/// One generated customer with orders.
fn customer(id: u64, rng: &mut fastrand::Rng) -> Value {
    let orders: Vec<Value> = (0..rng.usize(1..12))
        .map(|line| {
            json!({
                "line": line,
                "article": format!("{}-{}", name(rng), rng.u32(..1000)),
                "price": f64::from(rng.u32(..100_000)) / 100.0,
                "count": rng.u8(1..20),
                "gift": if rng.bool() { Value::Null } else { json!(sentence(rng, 4)) },
            })
        })
        .collect();
    json!({
        "id": id,
        "name": format!("{} {}", name(rng), name(rng)),
        "active": rng.bool(),
        "address": { "street": sentence(rng, 3), "zip": rng.u32(10_000..99_999) },
        "tags": (0..rng.usize(..6)).map(|_| name(rng)).collect::<Vec<_>>(),
        "orders": orders,
    })
}

/// Marks, renames, drops and adds parts of a customer; returns a number that depends on them.
fn edit(customer: &mut Value) -> u64 {
    let id = customer["id"].as_u64().unwrap_or(0);
    customer["seen"] = json!({ "by": "edit", "turn": id % 7 });
    customer["name"] = Value::from(customer["name"].as_str().unwrap_or("").to_uppercase());
    let Some(orders) = customer["orders"].as_array_mut() else { return 0 };
    orders.retain(|order| order["count"].as_u64().unwrap_or(0) % 5 != 0);
    let copies: Vec<Value> =
        orders.iter().filter(|order| order["gift"].is_null()).cloned().collect();
    orders.extend(copies);
    for order in orders.iter_mut() {
        if let Some(order) = order.as_object_mut() {
            order.remove("gift");
            order.insert("checked".to_owned(), Value::Bool(true));
        }
    }
    orders.len() as u64
}

/// Builds a JSON document, prints it, parses it, edits it, prints it again.
pub(crate) fn json(scale: &Scale) -> Outcome {
    let customers = scale.keep(1_000) as u64;
    let rounds = scale.of(40);
    measure(|| {
        let mut rng = scale.rng(0);
        let mut sum = 0;
        for _ in 0..rounds {
            let built = Value::Array((0..customers).map(|id| customer(id, &mut rng)).collect());
            let printed = built.to_string();
            let mut parsed: Value = serde_json::from_str(&printed).expect("printed JSON parses");
            assert_eq!(built, parsed, "a printed document is the same document");
            drop(built);
            for customer in parsed.as_array_mut().into_iter().flatten() {
                sum = fold(sum, edit(customer));
            }
            let pretty = serde_json::to_string_pretty(&parsed).expect("values print");
            sum = fold_bytes(sum, pretty.as_bytes());
        }
        (rounds * customers, sum)
    })
}

/// A part of an XML document.
enum Node {
    Element(Element),
    Text(String),
}

struct Element {
    tag: String,
    attributes: Vec<(String, String)>,
    children: Vec<Node>,
}

impl Element {
    fn new(tag: String) -> Self {
        Element { tag, attributes: Vec::new(), children: Vec::new() }
    }

    /// Parses a document; its root has no tag.
    fn parse(xml: &str) -> Result<Element, quick_xml::Error> {
        let mut reader = Reader::from_str(xml);
        let mut open = vec![Element::new(String::new())];
        loop {
            match reader.read_event()? {
                Event::Start(start) => {
                    let tag = String::from_utf8_lossy(start.name().as_ref()).into_owned();
                    let mut element = Element::new(tag);
                    for attribute in start.attributes() {
                        let attribute = attribute?;
                        let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
                        element.attributes.push((key, attribute.unescape_value()?.into_owned()));
                    }
                    open.push(element);
                }
                Event::End(_) => {
                    // The reader has checked that this closes the element that is open.
                    let Some(element) = open.pop() else { break };
                    if let Some(parent) = open.last_mut() {
                        parent.children.push(Node::Element(element));
                    }
                }
                Event::Text(text) => {
                    let text = text.decode()?;
                    if let Some(parent) = open.last_mut().filter(|_| !text.trim().is_empty()) {
                        parent.children.push(Node::Text(text.trim().to_owned()));
                    }
                }
                Event::Eof => break,
                _ => {}
            }
        }
        Ok(open.swap_remove(0))
    }

    fn write(&self, out: &mut String) {
        write!(out, "<{}", self.tag).expect("strings do not fail");
        for (key, value) in &self.attributes {
            write!(out, " {key}=\"{}\"", quick_xml::escape::escape(value.as_str()))
                .expect("strings do not fail");
        }
        out.push('>');
        for child in &self.children {
            match child {
                Node::Element(element) => element.write(out),
                Node::Text(text) => out.push_str(text),
            }
        }
        write!(out, "</{}>", self.tag).expect("strings do not fail");
    }

    /// Drops each seventh child, sorts attributes, wraps texts; returns the elements visited.
    fn edit(&mut self) -> u64 {
        self.attributes.sort();
        self.attributes.push(("children".to_owned(), self.children.len().to_string()));
        let mut position = 0;
        self.children.retain(|_| {
            position += 1;
            position % 7 != 0
        });
        let mut visited = 1;
        for child in &mut self.children {
            match child {
                Node::Element(element) => visited += element.edit(),
                Node::Text(text) => {
                    let mut wrapped = Element::new("t".to_owned());
                    wrapped.children.push(Node::Text(std::mem::take(text)));
                    *child = Node::Element(wrapped);
                }
            }
        }
        visited
    }
}

/// A generated catalogue.
fn catalogue(rng: &mut fastrand::Rng, entries: usize) -> String {
    let mut xml = String::from("<catalogue>\n");
    for id in 0..entries {
        let (kind, maker, about) = (name(rng), name(rng), sentence(rng, 5));
        write!(xml, "  <article id=\"{id}\" kind=\"{kind}\" maker=\"{maker} &amp; sons\">\n    ")
            .expect("strings do not fail");
        for part in 0..rng.usize(..8) {
            let inner = name(rng);
            write!(xml, "<part no=\"{part}\"><{inner}>{part}</{inner}> of {about}</part>")
                .expect("strings do not fail");
        }
        writeln!(xml, "\n    <about>{about}</about>\n  </article>").expect("strings do not fail");
    }
    xml.push_str("</catalogue>\n");
    xml
}

/// Parses XML into a tree of boxes and strings, edits the tree and writes it.
pub(crate) fn xml_tree(scale: &Scale) -> Outcome {
    let xml = catalogue(&mut scale.rng(0), scale.keep(3_000));
    let rounds = scale.of(40);
    measure(|| {
        let (mut units, mut sum) = (0, 0);
        for _ in 0..rounds {
            let mut root = Element::parse(&xml).expect("the catalogue is well-formed");
            units += root.edit();
            let mut out = String::new();
            root.write(&mut out);
            sum = fold_bytes(sum, out.as_bytes());
        }
        (units, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_read_and_written_back() {
        let mut root = Element::parse("<a x=\"1 &amp; 2\"><b>text</b><c/></a>").expect("XML");
        let mut out = String::new();
        root.write(&mut out);
        assert_eq!(out, "<><a x=\"1 &amp; 2\"><b>text</b></a></>");
        assert_eq!(root.edit(), 3);
    }

    #[test]
    fn edited_customers_have_no_gifts() {
        let mut customer = customer(3, &mut fastrand::Rng::with_seed(5));
        assert!(edit(&mut customer) > 0 || customer["orders"] == json!([]));
        assert!(!customer.to_string().contains("gift"), "{customer}");
    }
}
