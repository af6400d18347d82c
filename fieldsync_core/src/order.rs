//! Parents before children.

use petgraph::algo::kosaraju_scc;
use petgraph::graph::DiGraph;

/// Orders `count` tables so that every parent stands before its children. `edges` are `(child, parent)` pairs;
/// self-references and unknown tables are ignored. The tables of a cycle stand together, ascending, after the cycle's
/// other parents: their rows rely on deferred checks. The same input always gives the same order.
pub fn parents_first(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    circles(count, edges).into_iter().flatten().collect()
}

/// The same order, with what stands in a circle kept together: each thing is in exactly one of the lists, alone unless it refers,
/// by whatever way, to something that refers to it.
pub fn circles(count: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut graph = DiGraph::<(), ()>::with_capacity(count, edges.len());
    let nodes: Vec<_> = (0..count).map(|_| graph.add_node(())).collect();
    for (child, parent) in edges {
        if let (true, Some(child), Some(parent)) = (child != parent, nodes.get(*child), nodes.get(*parent)) {
            graph.update_edge(*child, *parent, ());
        }
    }
    // Components come in reverse topological order of child -> parent: parents first.
    kosaraju_scc(&graph)
        .into_iter()
        .map(|component| {
            let mut circle: Vec<usize> = component.into_iter().map(|node| node.index()).collect();
            circle.sort_unstable();
            circle
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cycle_and_its_child() {
        // 0 -> 1 -> 2 -> 1 (1 and 2 form a cycle, 0 is their child)
        let order = parents_first(3, &[(0, 1), (1, 2), (2, 1)]);
        assert_eq!(order.last(), Some(&0));
        assert_eq!(circles(3, &[(0, 1), (1, 2), (2, 1)]), [vec![1, 2], vec![0]]);
    }

    proptest! {
        #[test]
        fn without_cycles_every_parent_comes_first(pairs in prop::collection::vec((0usize..12, 0usize..12), 0..40)) {
            let edges: Vec<_> = pairs.into_iter().filter(|(child, parent)| child > parent).collect();
            let shuffled: Vec<_> = edges.iter().map(|(c, p)| (11 - c, 11 - p)).collect();
            let order = parents_first(12, &shuffled);
            prop_assert_eq!(order.len(), 12);
            let place = |table| order.iter().position(|at| *at == table).unwrap();
            for (child, parent) in shuffled {
                prop_assert!(place(parent) < place(child));
            }
        }
    }
}
