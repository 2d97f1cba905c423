//! Why something could not be written, as the API server has answered.

use std::fmt;

use kube::core::Status;

use super::writer::REQUEST;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server did not answer.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<kube::Error>),
    /// The API server could not do it, or asked to try again.
    #[error("the API server has answered {code}: {message}")]
    Failing {
        /// The status code of its answer.
        code: u16,
        /// What it says.
        message: String,
    },
    /// The API server did not answer in time; what was written may or may not be.
    #[error("the API server has not answered within {} s", REQUEST.as_secs())]
    TimedOut,
    /// Somebody else wrote at the same time.
    #[error("{0}")]
    Conflict(String),
    /// The operator has no right to.
    #[error("{0}")]
    Forbidden(String),
    /// The API server does not take the object.
    #[error("{0}")]
    Rejected(String),
    /// The API server cannot make sense of the object that is applied, or takes none with these values.
    #[error("{0}")]
    Invalid(Rejection),
    /// The namespace is being deleted, and takes no new objects.
    #[error("{0}")]
    Terminating(String),
    /// What is written to is no more.
    #[error("{0}")]
    Gone(String),
    /// Another replica leads, or this one does not know whether it still does.
    #[error("this replica does not lead")]
    NotLeading,
}

/// What the API server has found wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// All of it.
    pub message: String,
    /// By the object's fields, where it says.
    pub causes: Vec<Cause>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The field, as in `spec.template.spec.containers[0].image`.
    pub field: String,
    /// What was found there, and what is wrong with it.
    pub message: String,
}

impl WriteError {
    /// The same, where it is of no use to know which field it is.
    pub fn without_fields(self) -> Self {
        match self {
            Self::Invalid(rejection) => Self::Rejected(rejection.message),
            other => other,
        }
    }

    /// For metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Failing { .. } => "failing",
            Self::TimedOut => "timed_out",
            Self::Conflict(_) => "conflict",
            Self::Forbidden(_) => "forbidden",
            Self::Rejected(_) | Self::Invalid(_) => "rejected",
            Self::Terminating(_) => "terminating",
            Self::Gone(_) => "gone",
            Self::NotLeading => "not_leading",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => match status.code {
                403 if is_terminating(status) => Self::Terminating(status.message.clone()),
                403 => Self::Forbidden(status.message.clone()),
                404 => Self::Gone(status.message.clone()),
                409 => Self::Conflict(status.message.clone()),
                400 | 422 if !is_policy(&status.message) => Self::Invalid(rejection(status)),
                400 | 405 | 406 | 413 | 415 | 422 => Self::Rejected(status.message.clone()),
                500 if is_about_the_object(&status.message) => Self::Invalid(rejection(status)),
                code => Self::Failing { code, message: status.message.clone() },
            },
            _ => Self::Unreachable(Box::new(error)),
        }
    }
}

/// Whether an error of the server's own is one of the object all the same: what is laid over it is parsed late, a quantity of the
/// pods' template, say.
fn is_about_the_object(message: &str) -> bool {
    ["failed to convert ", "failed to create typed patch object "].iter().any(|begin| message.starts_with(begin))
}

fn rejection(status: &Status) -> Rejection {
    let causes = status.details.iter().flat_map(|details| &details.causes).filter(|cause| !cause.field.is_empty());
    let causes = causes.map(|cause| Cause { field: cause.field.clone(), message: cause.message.clone() });
    Rejection { message: status.message.clone(), causes: causes.collect() }
}

/// Whether it is no fault of the object's, but a rule of this cluster's.
fn is_policy(message: &str) -> bool {
    message.starts_with("admission webhook ") || message.contains("ValidatingAdmissionPolicy ")
}

/// Whether an object was refused because its namespace is being deleted.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_has_answered_is_not_told_as_that_it_cannot_be_reached() {
        let told = |code: u16, message: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": ""});
            let error = WriteError::from(kube::Error::Api(Box::new(serde_json::from_value(status).unwrap())));
            (error.kind(), error.to_string())
        };
        let quantity =
            "failed to convert merged object at version apps/v1: quantities must match the regular expression";
        assert_eq!(told(500, quantity), ("rejected", quantity.to_owned()));
        let webhook = "Internal error occurred: failed calling webhook \"a.example\"";
        assert_eq!(told(500, webhook), ("failing", format!("the API server has answered 500: {webhook}")));
        assert_eq!(told(429, "too many").0, "failing");
        assert_eq!(told(422, "no").0, "rejected");
        let is_invalid = |code, message: &str| {
            let status = Status::failure(message, "").with_code(code);
            matches!(WriteError::from(kube::Error::Api(status.boxed())), WriteError::Invalid(_))
        };
        assert!(is_invalid(422, "no") && is_invalid(400, "no") && is_invalid(500, quantity));
        for policy in
            ["admission webhook \"a.example\" denied the request: no", "x is forbidden: ValidatingAdmissionPolicy 'a'"]
        {
            assert!(!is_invalid(400, policy) && !is_invalid(422, policy), "{policy}");
        }
    }
}
