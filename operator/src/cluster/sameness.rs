//! Whether an object is as it is wanted, where the API server has added defaults and written values its own way.

use serde_json::{Map, Value};

/// The first place at which `actual` lacks or differs from what is wanted. What is not wanted there is not looked at.
pub fn first_difference(wanted: &Value, actual: &Value) -> Option<String> {
    let mut path = String::new();
    differs(wanted, actual, &mut path).then_some(path)
}

fn differs(wanted: &Value, actual: &Value, path: &mut String) -> bool {
    match (wanted, actual) {
        (Value::Object(wanted), Value::Object(actual)) => fields_differ(wanted, actual, path),
        (Value::Array(wanted), Value::Array(actual)) => {
            if wanted.len() != actual.len() {
                return true;
            }
            wanted.iter().zip(actual).enumerate().any(|(number, (wanted, actual))| {
                let depth = path.len();
                let name = wanted.get("name").and_then(Value::as_str).map_or_else(|| number.to_string(), str::to_owned);
                path.push_str(&format!("[{name}]"));
                let found = differs(wanted, actual, path);
                if !found {
                    path.truncate(depth);
                }
                found
            })
        }
        (wanted, actual) => {
            wanted != actual && !(is_nothing(wanted) && is_nothing(actual)) && !same_amount(wanted, actual)
        }
    }
}

fn fields_differ(wanted: &Map<String, Value>, actual: &Map<String, Value>, path: &mut String) -> bool {
    wanted.iter().any(|(name, wanted)| {
        let depth = path.len();
        if depth > 0 {
            path.push('.');
        }
        path.push_str(name);
        let found = match actual.get(name) {
            Some(actual) => differs(wanted, actual, path),
            None => !is_nothing(wanted),
        };
        if !found {
            path.truncate(depth);
        }
        found
    })
}

/// What the API server leaves out when it stores an object.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
    }
}

/// Whether two texts are one quantity, such as `0.5` and `500m`.
fn same_amount(one: &Value, other: &Value) -> bool {
    match (amount(one), amount(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// A quantity in thousandths.
fn amount(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    quantity(&text)
}

/// A Kubernetes quantity in thousandths.
pub fn quantity(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || whole.len() + fraction.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    digits.checked_mul(factor)?.checked_div(scale)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_that_the_api_server_adds_are_no_difference() {
        let wanted = json!({"spec": {"containers": [{"name": "a", "env": []}], "cpu": "0.5", "memory": "1024Mi"}});
        let actual = json!({
            "spec": {"containers": [{"name": "a", "terminationMessagePath": "/dev/log"}], "cpu": "500m", "memory": "1Gi",
                     "dnsPolicy": "ClusterFirst"},
            "status": {},
        });
        assert_eq!(first_difference(&wanted, &actual), None);
    }

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let wanted = json!({"spec": {"containers": [{"name": "millrace", "image": "b"}]}});
        let actual = json!({"spec": {"containers": [{"name": "millrace", "image": "a"}]}});
        assert_eq!(first_difference(&wanted, &actual).as_deref(), Some("spec.containers[millrace].image"));
        assert_eq!(first_difference(&json!({"a": 1}), &json!({})).as_deref(), Some("a"));
        assert_eq!(first_difference(&json!({"a": [1]}), &json!({"a": [1, 2]})).as_deref(), Some("a"));
    }

    #[test]
    fn quantities_are_compared_by_amount() {
        for (one, other) in [("0.5", "500m"), ("1Gi", "1024Mi"), ("2", "2000m"), ("1.5Gi", "1536Mi"), ("1k", "1000")] {
            assert_eq!(quantity(one), quantity(other), "{one} {other}");
        }
        assert_ne!(quantity("1G"), quantity("1Gi"));
        for bad in ["", "x", "1x", "-1", "1..2"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
