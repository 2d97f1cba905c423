//! How deep an expression may be: a bound that is checked on the words of a SQL text, before anything recurses over it.
//!
//! A chain such as `a AND b AND c` is as deep a tree as it has links, and a text of 64 KiB has room for thousands of them. Whoever
//! walks such a tree by recursion overflows the stack, and takes the process with it: an operator with all its
//! pipelines. [`MAX`] links are more than anybody writes by hand, and [`with_stack`] has room for them.

use datafusion_sql::sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Token, Tokenizer},
};

use crate::error::Fault;

/// The deepest tree that is taken.
const MAX: usize = 256;
/// Room for it, where each level may take 64 KiB in an unoptimised build, and four times as much again.
const STACK_BYTES: usize = 64 << 20;

/// Links of chains that are open at one level of parentheses.
#[derive(Default)]
struct Level {
    /// Of UNION and the like, and of JOINs.
    sets: usize,
    /// Of AND and OR, since the expression began.
    conditions: usize,
    /// Of other operators, since the last AND or OR.
    operators: usize,
}

impl Level {
    fn depth(&self) -> usize {
        1 + self.sets + self.conditions + self.operators
    }

    /// Another expression begins beside the last.
    fn next_expression(&mut self) {
        (self.conditions, self.operators) = (0, 0);
    }
}

/// Refuses what is too deep. What cannot even be read as words is left to the parser, which says where.
pub(crate) fn check(text: &str) -> Result<(), Fault> {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return Ok(()) };
    let mut levels = vec![Level::default()];
    let mut open = 0;
    for token in tokens {
        let Some(level) = levels.last_mut() else { return Ok(()) };
        match &token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // `a[1][2]` is a chain, and so is `f(1)(2)`.
                level.operators += 1;
                open += level.depth();
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace => close(&mut levels, &mut open),
            Token::Comma | Token::SemiColon => level.next_expression(),
            Token::Word(word) if word.quote_style.is_none() => match word.value.to_ascii_uppercase().as_str() {
                "AND" | "OR" | "XOR" => {
                    level.conditions += 1;
                    level.operators = 0;
                }
                "UNION" | "EXCEPT" | "INTERSECT" | "JOIN" => {
                    level.sets += 1;
                    level.next_expression();
                }
                "SELECT" | "FROM" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "ON" | "WHEN" | "THEN" | "ELSE" => {
                    level.next_expression();
                }
                "CASE" => {
                    open += level.depth();
                    levels.push(Level::default());
                }
                "END" => close(&mut levels, &mut open),
                "NOT" | "LIKE" | "ILIKE" | "SIMILAR" | "IS" | "BETWEEN" | "IN" | "COLLATE" | "AT" | "DIV" => {
                    level.operators += 1;
                }
                _ => {}
            },
            Token::Whitespace(_)
            | Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::EOF => {}
            _ => level.operators += 1,
        }
        if open + levels.last().map_or(0, Level::depth) > MAX {
            let expected = format!(
                "at most {MAX} operators and parentheses in one expression; `IN (…)` takes any number of values"
            );
            return Err(Fault::new("the SQL is nested too deeply").expected(expected));
        }
    }
    Ok(())
}

fn close(levels: &mut Vec<Level>, open: &mut usize) {
    if levels.len() > 1 {
        levels.pop();
        *open -= levels.last().map_or(0, Level::depth);
    }
}

/// Does something that recurses over what was checked, where there is room for it whoever asks.
pub(crate) fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("plan".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).expect("a process that cannot have another thread is at its end");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn where_(chain: &str, links: usize) -> String {
        format!("SELECT a FROM t WHERE {}", vec!["a > 1"; links + 1].join(chain))
    }

    #[test]
    fn chains_and_nests_are_bounded() {
        let deep = 20_000;
        for text in [
            where_(" AND ", MAX),
            where_(" OR ", deep),
            format!("SELECT {} AS b FROM t", vec!["a"; deep].join(" + ")),
            format!("SELECT {}a{} FROM t", "(".repeat(deep), ")".repeat(deep)),
            format!("SELECT {}a{} FROM t", "abs(".repeat(deep), ")".repeat(deep)),
            format!("SELECT {}a FROM t", "- ".repeat(deep)),
            format!("SELECT a FROM t WHERE {}a", "NOT ".repeat(deep)),
            format!("SELECT {}1{} FROM t", "CASE WHEN a THEN ".repeat(deep), " ELSE 2 END".repeat(deep)),
            format!("SELECT a FROM {}t{}", "(SELECT * FROM ".repeat(deep), ")".repeat(deep)),
            vec!["SELECT a FROM t"; deep].join(" UNION ALL "),
            format!("SELECT a{} FROM t", "::INT".repeat(deep)),
            format!("SELECT a{} FROM t", "[1]".repeat(deep)),
        ] {
            assert!(check(&text).is_err(), "{}", &text[..80]);
        }
    }

    #[test]
    fn what_people_write_is_taken() {
        let values = (0..5_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        for text in [
            where_(" OR ", MAX - 10),
            format!("SELECT a FROM t WHERE a IN ({values})"),
            format!("SELECT {} FROM t", (0..900).map(|n| format!("a + {n} AS a{n}")).collect::<Vec<_>>().join(", ")),
            "SELECT 'not closed".to_owned(),
            "SELECT )))) FROM END END".to_owned(),
        ] {
            assert_eq!(check(&text).err().map(|fault| fault.message), None);
        }
    }
}
