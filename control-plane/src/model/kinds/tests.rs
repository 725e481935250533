use weft_proto::document::{Document, Format};

use super::*;

fn read(text: &str) -> Outcome {
    let document = Document::parse("a.yaml", text, Format::Yaml).unwrap();
    Object::read(&document.root, &document.source)
}

#[test]
fn an_object_has_a_key_and_reports_what_has_no_effect() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  \
                http:\n  - route:\n    - destination: {host: a}\n      wieght: 3\n";
    let Outcome::Object(object) = read(text) else { panic!() };
    assert_eq!(object.key.to_string(), "VirtualService default/a");
    let problems: Vec<String> = object.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["a.yaml:9:7: spec.http[0].route[0].wieght: not supported: it has no effect (did you mean `weight`?)"]
    );
}

#[test]
fn what_cannot_be_read_is_rejected_with_its_place() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 99999\n";
    let Outcome::Rejected { key: Some(key), problems } = read(text) else { panic!() };
    assert_eq!(key.to_string(), "Service default/a");
    assert_eq!(
        problems[0].to_string(),
        "a.yaml:6:11: spec.ports[0].port: expected an integer from 0 to 65535, found the number 99999"
    );
    let Outcome::Rejected { key: None, problems } = read("kind: Service\n") else { panic!() };
    assert!(problems[0].to_string().starts_with("a.yaml:1:1: apiVersion: missing"), "{}", problems[0]);
}

#[test]
fn kinds_of_others_are_told_apart() {
    let Outcome::Foreign(problem) = read("apiVersion: certmanager.k8s.io/v1alpha1\nkind: Certificate\n") else {
        panic!()
    };
    assert_eq!(
        problem.to_string(),
        "a.yaml:1:1: kind: certmanager.k8s.io/v1alpha1 Certificate is not a kind that configures the mesh: it has no effect"
    );
    assert_eq!(Kind::find("gateway.networking.k8s.io/v1beta1", "Gateway"), Some(Kind::Gateway));
    assert_eq!(Kind::find("networking.istio.io/v1alpha3", "Gateway"), Some(Kind::IstioGateway));
}
