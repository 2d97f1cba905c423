//! Who a Pipeline's pods are, and what they may do: read the plan, move the pointer, write the report, hold the Lease; each by
//! name. They may make or delete nothing, and see no Secret.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use millrace_plan::handover::Names;

use super::Owner;

pub(super) fn service_account(owner: &Owner) -> ServiceAccount {
    ServiceAccount { metadata: owner.metadata(&owner.name), ..ServiceAccount::default() }
}

pub(super) fn role(owner: &Owner) -> Role {
    let names = Names::of(&owner.name);
    let rule = |group: &str, resource: &str, names: &[String], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(names.to_vec()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: owner.metadata(&owner.name),
        rules: Some(vec![
            rule("", "configmaps", &[names.plan()], &["get", "list", "watch"]),
            rule("", "configmaps", &[names.checkpoint(), names.report()], &["get", "patch", "update"]),
            rule("coordination.k8s.io", "leases", &[names.coordinator()], &["get", "update"]),
        ]),
    }
}

/// `account`: the service account that the pods have.
pub(super) fn role_binding(owner: &Owner, account: &str) -> RoleBinding {
    RoleBinding {
        metadata: owner.metadata(&owner.name),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: owner.name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(owner.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
