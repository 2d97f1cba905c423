//! Quantities of anything as Kubernetes reads them in pods: `500m`, `0.5`, `2Gi`, `1e3`.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::quantity::SUFFIXES;

/// The amount that a text says; `None` if Kubernetes would not read it.
pub fn amount(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let is_number = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1;
    if !is_number {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    if let Some((_, factor)) = SUFFIXES.into_iter().find(|(name, _)| *name == suffix) {
        return Some(number * factor as f64);
    }
    Some(match suffix {
        "" => number,
        // What is divided by a power of ten is the nearest number to what was written.
        "n" => number / 1e9,
        "u" => number / 1e6,
        "m" => number / 1e3,
        "E" => number * 1e18,
        "Ei" => number * 2_f64.powi(60),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            number * 10_f64.powi(exponent)
        }
    })
}

/// What is wrong with a quantity, and what would be right.
pub fn amount_problem(text: &str) -> Option<(String, &'static str)> {
    match amount(text) {
        None => Some((
            format!("`{text}` is no quantity"),
            "a number and, if wanted, a suffix, as in `500m`, `0.5` or `2Gi`",
        )),
        Some(amount) if amount < 0.0 => Some((format!("`{text}` is less than nothing"), "0 or more")),
        Some(_) => None,
    }
}

/// Where in resources a quantity is wrong, such as `limits.cpu`; what is wrong with it, and what would be right.
pub fn resource_problems(resources: &ResourceRequirements) -> Vec<(String, String, &'static str)> {
    let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
    let all = lists.into_iter().flat_map(|(list, of)| of.iter().flatten().map(move |it| (list, it)));
    all.filter_map(|(list, (name, quantity))| {
        let (message, expected) = amount_problem(&quantity.0)?;
        Some((format!("{list}.{name}"), message, expected))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]

    use super::*;

    #[test]
    fn quantities_are_what_kubernetes_takes_for_them() {
        for (text, is) in [
            ("0", 0.0),
            ("500m", 0.5),
            ("0.5", 0.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("+1", 1.0),
            ("2Gi", 2_147_483_648.0),
            ("1E", 1e18),
            ("1e3", 1e3),
            ("1E-3", 1e-3),
            ("100u", 0.0001),
            ("-1", -1.0),
        ] {
            assert_eq!(amount(text), Some(is), "{text}");
        }
        for text in
            ["", "lots", "1GB", "1 Gi", "1gi", "1K", "1..5", "1.2.3", "--1", "1-2", "0x10", "1e", "1e1.5", "Gi", "."]
        {
            assert_eq!(amount(text), None, "{text}");
        }
        assert!(amount_problem("-1").unwrap().0.contains("less than nothing"));
        assert_eq!(amount_problem("1"), None);
    }
}
