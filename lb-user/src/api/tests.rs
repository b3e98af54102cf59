use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn described() -> BTreeSet<(String, String)> {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = description["paths"].as_object().unwrap().clone();
    let of = |(path, methods): (String, Value)| {
        let methods = methods.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        methods.into_iter().map(move |method| (method, path.clone()))
    };
    paths.into_iter().flat_map(of).collect()
}

#[test]
fn every_route_is_described_and_every_description_has_its_route() {
    let routes: BTreeSet<_> = routes().iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(routes, described());
}

#[test]
fn the_description_refers_to_nothing_that_it_lacks_and_names_every_part_of_a_path() {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    for reference in OPENAPI.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer}");
    }
    for (path, methods) in description["paths"].as_object().unwrap() {
        let in_path: Vec<&str> = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        for operation in methods.as_object().unwrap().values() {
            let listed = operation["parameters"].as_array().into_iter().flatten();
            let listed = listed.filter(|parameter| parameter["in"] == "path");
            let listed: Vec<&str> = listed.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(listed, in_path, "{path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.ends_with('.')), "{path}");
        }
    }
}

#[test]
fn the_version_is_the_programs() {
    assert_eq!(OPENAPI.matches("\"0.0.0\"").count(), 1);
}
