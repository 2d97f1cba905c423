//! `millrace check` and `millrace plan`.

use millrace_plan::{Edit, EditClass, diff, explain, unknown_losses};

use crate::{
    Failure,
    cli::{ManifestArgs, PlanArgs, PlanFormat},
    manifests, telemetry,
};

/// Checks manifests, and whether there are the files that they name: silence on standard error, and one line on standard output, is a good sign.
pub fn check(args: &ManifestArgs) -> Result<(), Failure> {
    let plan = manifests::load_and_look(args)?;
    telemetry::say(&format!("{}: ok, {} nodes, revision {}", plan.spec.name, plan.nodes.len(), plan.revision));
    Ok(())
}

/// Shows a plan, or what an edit would do.
pub fn show(args: &PlanArgs) -> Result<(), Failure> {
    let plan = manifests::load(&args.manifests)?;
    if args.against.is_empty() {
        let shown = match args.output {
            PlanFormat::Text => explain::text(&plan),
            PlanFormat::Dot => explain::graphviz(&plan),
        };
        telemetry::print(&shown);
        return Ok(());
    }
    let against = ManifestArgs { files: args.against.clone(), pipeline: args.manifests.pipeline.clone() };
    let old = manifests::load(&against)?;
    for loss in unknown_losses(&plan.spec.pipeline, Some(&old.spec.pipeline)) {
        eprintln!("warning: {loss}");
    }
    let edit = diff(&old, &plan);
    telemetry::print(&edit_text(&edit));
    match edit.class {
        EditClass::Refused => Err(Failure::failed("the edit would be refused")),
        _ => Ok(()),
    }
}

/// The class of an edit and what it means, then node by node.
pub fn edit_text(edit: &Edit) -> String {
    let meaning = match edit.class {
        EditClass::None => "nothing changes",
        EditClass::Hot => "taken up at a checkpoint barrier, in process; nothing is lost or repeated",
        EditClass::Rescale => "taken up at a checkpoint barrier, in process; state moves between tasks",
        EditClass::Restart => "pods restart from a final checkpoint",
        EditClass::Refused => "not taken up; the running plan stays",
    };
    let mut text = format!("{:?}: {meaning}\n", edit.class);
    for change in &edit.nodes {
        text.push_str(&format!("  {} ({:?}): {}\n", change.node, change.class, change.why));
    }
    text
}
