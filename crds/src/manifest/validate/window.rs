//! What a Window has to say.

use super::Findings;
use crate::{DurationStr, WindowForm, WindowSpec, manifest::problem::Complaint};

/// How many slices a hopping window may have: each of a key's slices is an aggregate of its own.
const MAX_SLICES: u64 = 100_000;

pub(super) fn check(spec: &WindowSpec, findings: &mut Findings) {
    match spec.form() {
        Some(WindowForm::Tumbling(window)) => offset("tumbling", window.offset, "size", window.size, findings),
        Some(WindowForm::Hopping(window)) => {
            let (size, slide) = (window.size, window.slide);
            offset("hopping", window.offset, "slide", slide, findings);
            if slide > size {
                let message = format!("windows of {size} that begin every {slide} leave out the rows between them");
                let complaint = Complaint::new(message).expected(format!("at most {size}, the size"));
                findings.add("spec.hopping.slide", complaint);
            } else if !slide.is_zero() && size.as_millis() / gcd(size.as_millis(), slide.as_millis()) > MAX_SLICES {
                let slices = size.as_millis() / gcd(size.as_millis(), slide.as_millis());
                let message = format!("a window of {size} that slides by {slide} is made of {slices} slices");
                let expected =
                    format!("a slide whose greatest common divisor with the size is at least 1/{MAX_SLICES} of it");
                findings.add("spec.hopping.slide", Complaint::new(message).expected(expected));
            }
        }
        Some(WindowForm::Rolling(_) | WindowForm::Session(_)) | None => {}
    }
}

fn offset(form: &str, offset: Option<DurationStr>, unit: &str, length: DurationStr, findings: &mut Findings) {
    if let Some(offset) = offset.filter(|offset| *offset >= length) {
        let message = format!("an offset of {offset} is not less than the {unit}");
        let complaint = Complaint::new(message).expected(format!("less than {length}"));
        let rest = offset.as_millis().checked_rem(length.as_millis()).map(DurationStr::from_millis);
        findings.add(
            format!("spec.{form}.offset"),
            complaint.nearest(rest.filter(|rest| !rest.is_zero()).map(|rest| rest.to_string())),
        );
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}
