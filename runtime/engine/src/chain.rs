//! An error with its causes, as people read it.

/// An error with its causes, on one line. Two tries of the same that fail alike say the same.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // A transparent error says the same as its source.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    without_answers(&without_tries(&text))
}

/// Without how long a request to a store took, and how often it was made.
fn without_tries(text: &str) -> String {
    const REQUEST: &str = "Error performing ";
    let Some((before, rest)) = text.split_once(REQUEST) else { return text.to_owned() };
    let whole = || format!("{before}{REQUEST}{}", without_tries(rest));
    let Some((request, (tries, after))) = rest.split_once(" in ").and_then(|(request, rest)| {
        let parts = rest.split_once(" - ")?;
        Some((request, parts))
    }) else {
        return whole();
    };
    let took = tries.split(',').next().unwrap_or_default().trim_end();
    let is_time = took.starts_with(|first: char| first.is_ascii_digit()) && took.ends_with('s') && !took.contains(' ');
    match is_time {
        true => format!("{before}{request}: {}", without_tries(after)),
        false => whole(),
    }
}

/// With what an S3 store answers as `code: message`, in the place of the XML, which numbers the request.
fn without_answers(text: &str) -> String {
    const ENDS: [&str; 2] = ["</Error>", "</ErrorResponse>"];
    let start = text.find("<?xml").or_else(|| text.find("<Error"));
    let end = ENDS.iter().filter_map(|end| Some(text.rfind(end)? + end.len())).max();
    let (Some(start), Some(end)) = (start, end) else { return text.to_owned() };
    let Some(answer) = text.get(start..end) else { return text.to_owned() };
    let of = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner.trim())
    };
    match (of("Code"), of("Message").filter(|message| !message.is_empty())) {
        (Some(code), Some(message)) => format!("{}{code}: {message}{}", &text[..start], &text[end..]),
        (Some(code), None) => format!("{}{code}{}", &text[..start], &text[end..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Says(&'static str, #[source] Option<Box<Says>>);

    #[test]
    fn causes_follow_an_error_and_none_is_said_twice() {
        let error = Says("a: b", Some(Box::new(Says("b", Some(Box::new(Says("c", None)))))));
        assert_eq!(chain(&error), "a: b: c");
    }

    #[test]
    fn what_a_store_answers_is_said_without_what_is_of_one_try() {
        for (said, read) in [
            (
                "cannot create a in s3://b: Error performing PUT http://c/b/a in 2.409162ms - Server returned non-2xx status code: \
                 403 Forbidden: <?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidAccessKeyId</Code><Message>The key \
                 does not exist.</Message><AWSAccessKeyId>k</AWSAccessKeyId><RequestId>IYN</RequestId></Error>",
                "cannot create a in s3://b: PUT http://c/b/a: Server returned non-2xx status code: 403 Forbidden: InvalidAccessKeyId: \
                 The key does not exist.",
            ),
            (
                "Error performing GET http://c/b/a in 1.5s, after 3 retries, max_retries: 10, retry_timeout: 180s  - HTTP error: \
                 connection refused",
                "GET http://c/b/a: HTTP error: connection refused",
            ),
            ("x <ErrorResponse><Error><Code>Slow</Code></Error></ErrorResponse> y", "x Slow y"),
            ("cannot come in - or out", "cannot come in - or out"),
            ("Error performing tricks in 2 days - no", "Error performing tricks in 2 days - no"),
            ("Error performing <Error>", "Error performing <Error>"),
            ("</Error><?xml", "</Error><?xml"),
        ] {
            assert_eq!(chain(&Says(said, None)), read);
        }
    }
}
