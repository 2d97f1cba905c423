use std::fmt::Write;

use expect_test::expect;
use proptest::prelude::*;

use super::*;

const GOOD: &str = include_str!("good.yaml");

#[test]
fn a_file_of_aliases_of_aliases_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let of = format!("*a{}", n - 1);
        let _ = writeln!(text, "a{n}: &a{n} [{}]", vec![of; 10].join(", "));
    }
    expect![[r#"
        bomb.yaml:6:20: the document is too large: with its aliases written out it has more than 262144 values
           |
         6 | a5: &a5 [*a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4]
           |                    ^^^

        bomb.yaml:14: passed over Pod `p`
    "#]]
    .assert_eq(&said(&[("bomb.yaml", &format!("{text}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\n"))]));
}

#[test]
fn deep_nesting_is_refused() {
    expect![[r#"
        flow.yaml:1:65: values are nested more than 64 deep
           |
         1 | …[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…
           |                                                         ^

        block.yaml:1:129: values are nested more than 64 deep
           |
         1 | … - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - -…
           |                                                         ^
    "#]].assert_eq(&said(&[("flow.yaml", &"[".repeat(100_000)), ("block.yaml", &"- ".repeat(100_000))]));
    let deep_aliases: String =
        (0..50).fold("a: &x0 [[[[1]]]]\n".to_owned(), |text, n| format!("{text}b{n}: &x{} [*x{n}]\n", n + 1));
    assert!(said(&[("aliases.yaml", &deep_aliases)]).contains("field `apiVersion` is missing"));
    let deeper = (50..70).fold(deep_aliases, |text, n| format!("{text}b{n}: &x{} [*x{n}]\n", n + 1));
    assert!(said(&[("aliases.yaml", &deeper)]).contains("nested more than 64 deep"));
}

#[test]
fn a_file_that_is_no_text_or_too_large_is_refused() {
    let (_, problems) = read(&[
        ("zip.yaml", b"ab\x1f\x8b\xff".as_slice()),
        ("utf16.yaml", b"\xff\xfea\0".as_slice()),
        ("large.yaml", vec![b'#'; (8 << 20) + 1].as_slice()),
    ]);
    let said: Vec<_> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    expect![[r#"
        zip.yaml:1:4: byte 0x8b is not UTF-8
           |
         1 | ab�
           |    ^
           = expected a text file in UTF-8; is this one compressed?

        utf16.yaml:1:1: the file is UTF-16, and a manifest has to be UTF-8

        large.yaml:1:1: the file has 8388609 bytes, and a manifest may have 8388608
    "#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn not_more_than_five_hundred_problems_are_told() {
    let fields: String = (0..2000).fold(String::new(), |text, n| format!("{text}  x{n}: 1\n"));
    let (_, problems) = read(&[("a.yaml", with(&fields))]);
    assert_eq!(problems.len(), 501);
}

#[test]
#[allow(clippy::disallowed_methods)] // A test may look at the clock.
fn what_is_large_is_read_in_time() {
    let started = std::time::Instant::now();
    for unit in [
        "- a\n",
        "a: b\n",
        "---\n",
        "[",
        "{a: ",
        "\"",
        "'",
        "? ",
        "&a ",
        "*a ",
        "!!str ",
        "# x\n",
        "- - ",
        ": ",
        "|\n ",
        "<<: {a: 1}\n",
    ] {
        let (_, problems) = read(&[("large.yaml", unit.repeat(400_000 / unit.len()))]);
        assert!(problems.len() <= 501);
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// A change of a text: what stands at a place goes, and something else comes there.
fn change() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let pieces = prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\t",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "&a",
        "*a",
        "!!str ",
        "|",
        ">",
        "---\n",
        "...",
        "#",
        "null",
        "1",
        "-1",
        "1e999",
        "yes",
        "0x7fffffffffffffffffff",
        "\u{feff}",
        "\r",
        "é",
        "🦀",
        "<<: *a\n",
        "spec:",
        "name",
        "{}",
        "[]",
        "99999999999999999999",
        "\\u0041",
        "%YAML 1.1\n",
        "@",
        "`",
        "\0",
    ]);
    (any::<prop::sample::Index>(), 0..12_usize, pieces.prop_map(str::to_owned))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (_, problems) = read(&[("a.yaml", &bytes)]);
        for problem in problems {
            prop_assert!(problem.line >= 1 && problem.column >= 1 && !problem.to_string().is_empty());
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\n\t:{}\\[\\]&*!|>'\"#%-]{0,200}") {
        read(&[("a.yaml", &text)]);
    }

    #[test]
    fn no_change_of_a_manifest_makes_the_reader_panic(changes in prop::collection::vec(change(), 1..8)) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, gone, come) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + gone).min(text.len());
            text.splice(at..end, come.chars());
        }
        let text: String = text.into_iter().collect();
        let (manifests, problems) = read(&[("a.yaml", &text)]);
        for problem in &problems {
            prop_assert!(problem.line <= text.split(['\n', '\r']).count());
            prop_assert!(!problem.to_string().is_empty());
        }
        for pipeline in &manifests.pipelines {
            for (n, transform) in pipeline.value.spec.transforms.iter().enumerate() {
                let path = format!("spec.transforms[{n}].sql");
                for column in 0..transform.sql.len().min(40) {
                    pipeline.problem_in(&path, 1, column, Complaint::new("here"));
                }
            }
            // What is there can be written, whatever was wrong with it, and read back.
            let json = serde_json::to_value(&pipeline.value.spec).unwrap();
            prop_assert_eq!(&serde_json::from_value::<crate::PipelineSpec>(json).unwrap(), &pipeline.value.spec);
        }
    }

    #[test]
    fn a_duration_is_read_as_it_is_written(ms in 0..3_000_000_000_000_u64) {
        let duration = crate::DurationStr::from_millis(ms);
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
    }

    #[test]
    fn a_size_is_read_as_it_is_written(bytes in 0..i64::MAX as u64, zeros in 0..60_u32) {
        let size = crate::Quantity::from_bytes(bytes >> zeros << zeros);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }
}
