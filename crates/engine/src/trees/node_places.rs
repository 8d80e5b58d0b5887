//! Finds nodes by the numbers that a model file gives them, and sorts the weights of an ensemble by node.

use std::collections::HashMap;
use std::ops::Range;

use crate::trees::Unfit;
use crate::trees::attributes::Numbers;
use crate::trees::ensemble::Weight;

/// The nodes of one tree.
pub(crate) struct TreeNodes {
    pub(crate) nodes: Range<usize>,
    /// The place of each node by its number, if the numbers are not 0, 1, 2 ...
    by_number: Option<HashMap<i64, usize>>,
}

/// Where the nodes of each tree are.
pub(crate) struct Places {
    pub(crate) trees: Vec<TreeNodes>,
    by_tree: HashMap<i64, usize>,
}

impl Places {
    pub(crate) fn of(tree_ids: &[i64], node_ids: &[i64]) -> Result<Self, Unfit> {
        let mut places = Self { trees: Vec::new(), by_tree: HashMap::new() };
        let number = |n: i64| (0..=i64::from(i32::MAX)).contains(&n);
        let mut start = 0;
        for nodes in tree_ids.chunk_by(|a, b| a == b) {
            let nodes = start..start + nodes.len();
            start = nodes.end;
            let (tree, numbers) = (tree_ids[nodes.start], &node_ids[nodes.clone()]);
            if !number(tree) || !numbers.iter().all(|n| number(*n)) {
                return Err(Unfit::Left("a number out of range"));
            }
            let in_order = numbers.iter().enumerate().all(|(i, n)| usize::try_from(*n) == Ok(i));
            let by_number = (!in_order).then(|| {
                let entry = |(i, n): (usize, &i64)| (*n, nodes.start + i);
                numbers.iter().enumerate().map(entry).collect::<HashMap<_, _>>()
            });
            if by_number.as_ref().is_some_and(|map| map.len() != nodes.len()) {
                return Err(Unfit::Left("two nodes with one number"));
            }
            if places.by_tree.insert(tree, places.trees.len()).is_some() {
                return Err(Unfit::Left("a tree in several pieces"));
            }
            places.trees.push(TreeNodes { nodes, by_number });
        }
        Ok(places)
    }

    pub(crate) fn node(&self, tree: &TreeNodes, number: i64) -> Result<usize, Unfit> {
        let at = match &tree.by_number {
            Some(map) => map.get(&number).copied(),
            None => usize::try_from(number).ok().filter(|n| *n < tree.nodes.len()).map(|n| tree.nodes.start + n),
        };
        at.ok_or(Unfit::Left("a node that does not exist"))
    }
}

/// The positions of the weights of each node.
pub(crate) struct WeightsOfNode(Vec<usize>);

impl WeightsOfNode {
    pub(crate) fn range(&self, node: usize) -> Range<usize> {
        match (self.0.get(node), self.0.get(node + 1)) {
            (Some(start), Some(end)) => *start..*end,
            _ => 0..0,
        }
    }
}

/// What ONNX Runtime derives from all weights, also from those of nodes that are not leaves.
pub(crate) struct Outline {
    pub(crate) one_target: bool,
    pub(crate) no_negative: bool,
}

/// Sorts the weights by node. Weights of one node keep their order.
pub(crate) fn weights_of(
    places: &Places,
    target_ids: &[i64],
    target_nodes: &[i64],
    target_trees: &[i64],
    values: &Numbers,
    nodes: usize,
) -> Result<(WeightsOfNode, Vec<Weight>, Outline), Unfit> {
    let mut at_node = Vec::with_capacity(target_ids.len());
    let mut starts = vec![0; nodes + 1];
    let mut run = None;
    for (tree, node) in target_trees.iter().zip(target_nodes) {
        if run.is_none_or(|(id, _)| id != tree) {
            let found = places.by_tree.get(tree).and_then(|run| places.trees.get(*run));
            run = Some((tree, found.ok_or(Unfit::Left("a node that does not exist"))?));
        }
        let Some((_, found)) = run else { return Err(Unfit::Left("a node that does not exist")) };
        let node = places.node(found, *node)?;
        at_node.push(node);
        starts[node + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut weights = vec![Weight { target: 0, value: 0.0 }; target_ids.len()];
    let mut next = starts.clone();
    let mut outline = Outline {
        one_target: !target_ids.is_empty() && target_ids.iter().all(|t| *t == target_ids[0]),
        no_negative: true,
    };
    for (i, node) in at_node.into_iter().enumerate() {
        let target = u32::try_from(target_ids[i]).map_err(|_| Unfit::Left("a target out of range"))?;
        let value = values.get(i).unwrap_or(f64::NAN);
        if value < 0.0 {
            outline.no_negative = false;
        }
        weights[next[node]] = Weight { target, value };
        next[node] += 1;
    }
    Ok((WeightsOfNode(starts), weights, outline))
}
