//! The query of a request, by the keys that it may have.

/// The value of each key, in their order.
///
/// # Errors
/// A key is not among them, or is given twice.
pub fn values<const N: usize>(query: &str, keys: &[&str; N]) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = keys.iter().position(|known| *known == key);
        let place = place.ok_or_else(|| format!("{key:?} is not known here; there are {}", keys.join(", ")))?;
        if values[place].replace(value.into_owned()).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    Ok(values)
}

/// That the description of a route lists these keys.
#[cfg(test)]
pub fn assert_described(path: &str, keys: &[&str]) {
    let description: serde_json::Value = serde_json::from_str(super::OPENAPI).unwrap();
    let parameters = description["paths"][path]["get"]["parameters"].as_array().unwrap();
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
    assert_eq!(names, keys);
    assert!(parameters.iter().all(|parameter| parameter["in"] == "query"));
}
