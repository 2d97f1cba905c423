//! Quantities of anything as Kubernetes reads them in pods: `500m`, `0.5`, `2Gi`, `1e3`.

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
    Some(match suffix {
        "" => number,
        // What is divided by a power of ten is the nearest number to what was written.
        "n" => number / 1e9,
        "u" => number / 1e6,
        "m" => number / 1e3,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "P" => number * 1e15,
        "E" => number * 1e18,
        "Ki" => number * 2_f64.powi(10),
        "Mi" => number * 2_f64.powi(20),
        "Gi" => number * 2_f64.powi(30),
        "Ti" => number * 2_f64.powi(40),
        "Pi" => number * 2_f64.powi(50),
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
