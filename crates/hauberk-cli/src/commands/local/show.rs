//! Tables of pods and objects.

use hauberk_local::api::PodRow;
use serde_json::Value;

use super::problems::Problems;

/// The pods of a lab, a line each.
pub(super) fn pods(pods: &[PodRow]) -> String {
    let head = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "MESHED", "IP", "MESSAGE"];
    let rows = pods.iter().map(|pod| {
        let counts = |one: &&hauberk_local::api::ContainerRow| {
            one.kind != hauberk_local::plan::ContainerKind::Init
        };
        let (ready, all) = (
            pod.containers.iter().filter(counts).filter(|one| one.ready).count(),
            pod.containers.iter().filter(counts).count(),
        );
        [
            pod.namespace.clone(),
            pod.name.clone(),
            format!("{ready}/{all}"),
            pod.phase.clone(),
            pod.containers.iter().map(|one| one.restarts).sum::<u32>().to_string(),
            if pod.meshed { "yes" } else { "no" }.to_owned(),
            pod.ips.first().cloned().unwrap_or_default(),
            pod.message.clone().unwrap_or_default(),
        ]
    });
    table(head, rows)
}

/// Objects of any kind, a line each, with what the control plane cannot read of them.
pub(super) fn objects(objects: &[Value], problems: &Problems) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = objects.iter().map(|object| {
        let metadata = &object["metadata"];
        [
            text(&metadata["namespace"]),
            text(&object["kind"]),
            text(&metadata["name"]),
            detail(object),
            problems.of(object),
        ]
    });
    table(["NAMESPACE", "KIND", "NAME", "DETAIL", "PROBLEM"], rows)
}

/// What one wants to know first about an object of its kind.
fn detail(object: &Value) -> String {
    let list = |value: &Value| {
        let words = value.as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(",")
    };
    match object["kind"].as_str() {
        Some("Service") => list(&object["spec"]["clusterIPs"]),
        Some("Pod") => format!(
            "{} {}",
            object["status"]["phase"].as_str().unwrap_or_default(),
            object["status"]["podIP"].as_str().unwrap_or_default()
        ),
        Some("EndpointSlice") => {
            let endpoints = object["endpoints"].as_array().into_iter().flatten();
            endpoints.map(|one| list(&one["addresses"])).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

/// Columns as wide as their widest cells.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let service = json!({"kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIPs": ["10.96.0.10", "fd96::a"]}});
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "a-long-name"}});
        let expect = "\
NAMESPACE   KIND        NAME          DETAIL               PROBLEM
shop        Service     web           10.96.0.10,fd96::a
            Namespace   a-long-name
";
        assert_eq!(objects(&[service, namespace], &Problems::default()), expect);
    }
}
