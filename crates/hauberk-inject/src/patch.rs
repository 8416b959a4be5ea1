//! The difference of two values as a JSON patch (RFC 6902).
//!
//! The injector edits values; what travels (an admission response) or is applied to a text
//! ([`crate::text`]) is computed afterwards by comparing before with after. So there is one
//! description of a sidecar, not one per output.
//!
//! Only `add`, `remove` and `replace` are produced. Lists are compared by the `name` of their
//! items where all have one, as Kubernetes merges containers and volumes, else by equality.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A step in a path: the key of a map or the index in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Key of a map.
    Key(String),
    /// Index in a list.
    Index(usize),
}

/// One operation; paths refer to the value as the operations before have left it.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Adds a key to a map, or inserts before an index of a list.
    Add(Vec<Step>, Value),
    /// Removes a key or an item.
    Remove(Vec<Step>),
    /// Puts another value in place.
    Replace(Vec<Step>, Value),
}

impl Operation {
    /// The operation as RFC 6902 writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Add(path, value) => {
                json!({"op": "add", "path": pointer(path), "value": value})
            }
            Self::Remove(path) => json!({"op": "remove", "path": pointer(path)}),
            Self::Replace(path, value) => {
                json!({"op": "replace", "path": pointer(path), "value": value})
            }
        }
    }
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &[Step]) -> String {
    path.iter()
        .map(|step| match step {
            Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => format!("/{index}"),
        })
        .collect()
}

/// The operations that turn `before` into `after`. Cost: lists are compared in quadratic time.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    compare(before, after, &mut Vec::new(), &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: &mut Vec<Step>, out: &mut Vec<Operation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                at(path, Step::Key(key.clone()), |path| out.push(Operation::Remove(path.clone())));
            }
            for (key, value) in new {
                at(path, Step::Key(key.clone()), |path| match old.get(key) {
                    Some(prior) => compare(prior, value, path, out),
                    None => out.push(Operation::Add(path.clone(), value.clone())),
                });
            }
        }
        (Value::Array(old), Value::Array(new)) => compare_lists(old, new, path, out),
        _ => out.push(Operation::Replace(path.clone(), after.clone())),
    }
}

fn at<T>(path: &mut Vec<Step>, step: Step, then: impl FnOnce(&mut Vec<Step>) -> T) -> T {
    path.push(step);
    let result = then(path);
    path.pop();
    result
}

fn compare_lists(old: &[Value], new: &[Value], path: &mut Vec<Step>, out: &mut Vec<Operation>) {
    let by_name = distinct_names(old) && distinct_names(new);
    let same = |a: &Value, b: &Value| if by_name { a["name"] == b["name"] } else { a == b };
    let kept = common(old, new, same);
    let kept_old: BTreeSet<_> = kept.iter().map(|(i, _)| *i).collect();
    for index in (0..old.len()).rev().filter(|index| !kept_old.contains(index)) {
        at(path, Step::Index(index), |path| out.push(Operation::Remove(path.clone())));
    }
    let mut kept = kept.into_iter().peekable();
    for (index, value) in new.iter().enumerate() {
        at(path, Step::Index(index), |path| match kept.next_if(|(_, j)| *j == index) {
            Some((i, _)) => compare(&old[i], value, path, out),
            None => out.push(Operation::Add(path.clone(), value.clone())),
        });
    }
}

fn distinct_names(list: &[Value]) -> bool {
    let mut seen = BTreeSet::new();
    list.iter().all(|item| item["name"].as_str().is_some_and(|name| seen.insert(name)))
}

/// A longest common subsequence, as pairs of indices.
fn common(
    old: &[Value],
    new: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) -> Vec<(usize, usize)> {
    let mut length = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i][j] = if same(&old[i], &new[j]) {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if same(&old[i], &new[j]) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies the operations, to show that they lead from before to after.
    fn apply(mut value: Value, operations: &[Operation]) -> Value {
        fn parent<'v>(value: &'v mut Value, path: &'v [Step]) -> (&'v mut Value, &'v Step) {
            let (last, way) = path.split_last().expect("no operation replaces the root here");
            let target = way.iter().fold(value, |value, step| match step {
                Step::Key(key) => value.get_mut(key).expect("exists"),
                Step::Index(index) => value.get_mut(index).expect("exists"),
            });
            (target, last)
        }
        for operation in operations {
            match operation {
                Operation::Add(path, new) => match parent(&mut value, path) {
                    (Value::Object(map), Step::Key(key)) => {
                        assert_eq!(map.insert(key.clone(), new.clone()), None);
                    }
                    (Value::Array(list), Step::Index(index)) => list.insert(*index, new.clone()),
                    other => panic!("{other:?}"),
                },
                Operation::Remove(path) => match parent(&mut value, path) {
                    (Value::Object(map), Step::Key(key)) => {
                        map.shift_remove(key).expect("exists");
                    }
                    (Value::Array(list), Step::Index(index)) => drop(list.remove(*index)),
                    other => panic!("{other:?}"),
                },
                Operation::Replace(path, new) => match parent(&mut value, path) {
                    (Value::Object(map), Step::Key(key)) => {
                        map.insert(key.clone(), new.clone()).expect("exists");
                    }
                    (Value::Array(list), Step::Index(index)) => list[*index] = new.clone(),
                    other => panic!("{other:?}"),
                },
            }
        }
        value
    }

    #[track_caller]
    fn check(before: Value, after: Value, expect: Value) {
        let operations = difference(&before, &after);
        let json: Vec<_> = operations.iter().map(Operation::to_json).collect();
        assert_eq!(Value::from(json), expect);
        assert_eq!(apply(before, &operations), after);
    }

    #[test]
    fn equal_values_need_nothing() {
        check(json!({"a": [1], "b": 2}), json!({"b": 2, "a": [1]}), json!([]));
    }

    #[test]
    fn maps_gain_lose_and_change_keys() {
        check(
            json!({"a": 1, "b": {"c": 2, "x/y~z": 1}}),
            json!({"b": {"c": 3}, "d": [4]}),
            json!([
                {"op": "remove", "path": "/a"},
                {"op": "remove", "path": "/b/x~1y~0z"},
                {"op": "replace", "path": "/b/c", "value": 3},
                {"op": "add", "path": "/d", "value": [4]},
            ]),
        );
    }

    #[test]
    fn named_items_keep_their_identity() {
        check(
            json!({"c": [{"name": "app", "v": 1}, {"name": "old"}]}),
            json!({"c": [{"name": "init"}, {"name": "app", "v": 2}, {"name": "proxy"}]}),
            json!([
                {"op": "remove", "path": "/c/1"},
                {"op": "add", "path": "/c/0", "value": {"name": "init"}},
                {"op": "replace", "path": "/c/1/v", "value": 2},
                {"op": "add", "path": "/c/2", "value": {"name": "proxy"}},
            ]),
        );
    }

    #[test]
    fn other_lists_are_compared_item_by_item() {
        for (before, after) in [
            (json!([[1, 2, 3]]), json!([[3, 1, 2, 4]])),
            (json!([["a", "a"]]), json!([["a"]])),
            (json!([[]]), json!([[{"name": "x"}, {"name": "x"}]])),
            (json!([[{"name": "b"}, {"name": "a"}]]), json!([[{"name": "a"}, {"name": "b"}]])),
            (json!([[1]]), json!([{"a": 1}])),
        ] {
            assert_eq!(apply(before.clone(), &difference(&before, &after)), after);
        }
    }
}
