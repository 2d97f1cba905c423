//! Decimal numbers, read exactly: for everything that a float would round.

/// `mantissa × 10^exponent`, as far as 38 digits hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    mantissa: u128,
    exponent: i64,
    /// Digits other than zero were left out behind the 38th.
    cut: bool,
}

/// What becomes of digits that the target does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// There may be none.
    Refuse,
    /// They round the last kept digit, half away from zero.
    Round,
    /// They are cut off, toward the past.
    Floor,
}

impl Decimal {
    /// Reads `[+-] digits [. digits] [e [+-] digits]`, with a digit before or behind the point; nothing else.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (negative, mut rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let mut number = Self { negative, mantissa: 0, exponent: 0, cut: false };
        let mut digits = 0;
        let mut behind_point = false;
        while let [first, others @ ..] = rest {
            match first {
                b'0'..=b'9' => {
                    digits += 1;
                    number.push(first - b'0', behind_point);
                }
                b'.' if !behind_point => behind_point = true,
                b'e' | b'E' if digits > 0 => {
                    number.exponent = number.exponent.saturating_add(exponent(others)?);
                    return Some(number);
                }
                _ => return None,
            }
            rest = others;
        }
        (digits > 0).then_some(number)
    }

    fn push(&mut self, digit: u8, behind_point: bool) {
        const FULL: u128 = 10_u128.pow(37);
        if self.mantissa >= FULL {
            self.cut |= digit != 0;
            self.exponent += i64::from(!behind_point);
        } else {
            self.mantissa = self.mantissa * 10 + u128::from(digit);
            self.exponent -= i64::from(behind_point);
        }
    }

    /// The number in units of `10^-scale`, or `None` where that is too large or, by [`Excess::Refuse`], no whole number.
    pub(crate) fn units(self, scale: u32, excess: Excess) -> Option<i128> {
        if self.mantissa == 0 {
            return Some(0);
        }
        let shift = self.exponent.saturating_add(i64::from(scale));
        let whole = if shift >= 0 {
            if self.cut && excess == Excess::Refuse {
                return None;
            }
            let factor = 10_u128.checked_pow(u32::try_from(shift).ok()?)?;
            self.mantissa.checked_mul(factor)?
        } else {
            let drop = u32::try_from(-shift).unwrap_or(u32::MAX);
            let divisor = 10_u128.checked_pow(drop);
            let (quotient, remainder) = match divisor {
                Some(divisor) => (self.mantissa / divisor, self.mantissa % divisor),
                None => (0, self.mantissa),
            };
            let inexact = remainder != 0 || self.cut;
            match excess {
                Excess::Refuse if inexact => return None,
                Excess::Round => quotient + u128::from(divisor.is_some_and(|divisor| remainder >= divisor.div_ceil(2))),
                Excess::Floor => quotient + u128::from(inexact && self.negative),
                Excess::Refuse => quotient,
            }
        };
        let whole = i128::try_from(whole).ok()?;
        Some(if self.negative { -whole } else { whole })
    }
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = (value * 10 + i64::from(digit - b'0')).min(1_000_000_000);
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str, scale: u32, excess: Excess) -> Option<i128> {
        Decimal::parse(text.as_bytes()).and_then(|number| number.units(scale, excess))
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        for text in ["1200", "1.2e3", "12000e-1", "+1200.000", "0.12E+4", "001200"] {
            assert_eq!(units(text, 0, Excess::Refuse), Some(1200), "{text}");
        }
        assert_eq!(units("1.5", 0, Excess::Refuse), None);
        assert_eq!(units("-1.5", 1, Excess::Refuse), Some(-15));
    }

    #[test]
    fn what_is_too_fine_is_rounded_half_away_from_zero_or_cut_toward_the_past() {
        assert_eq!(units("2.345", 2, Excess::Round), Some(235));
        assert_eq!(units("-2.345", 2, Excess::Round), Some(-235));
        assert_eq!(units("2.344999", 2, Excess::Round), Some(234));
        assert_eq!(units("1e-400", 2, Excess::Round), Some(0));
        assert_eq!(units("1.9", 0, Excess::Floor), Some(1));
        assert_eq!(units("-1.1", 0, Excess::Floor), Some(-2));
        assert_eq!(units("0.5", 0, Excess::Round), Some(1));
    }

    #[test]
    fn what_is_too_large_is_no_number_of_units() {
        assert_eq!(units("1e400", 0, Excess::Round), None);
        assert_eq!(units("1e38", 2, Excess::Round), None);
        assert_eq!(units("0e999999999999", 2, Excess::Round), Some(0));
        assert_eq!(units(&"9".repeat(45), 0, Excess::Round), None);
    }

    #[test]
    fn other_text_is_no_number() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "0x10", " 1", "1 ", "NaN", "1e5.0"] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
