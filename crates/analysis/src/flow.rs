//! The smallest set of vertices that cuts a graph in two: Dinic's maximum flow, of which only the
//! vertices that stand for rules have a bound.

use std::collections::VecDeque;

/// A bound that no flow of this graph reaches.
pub(crate) const WIDE: u32 = u32::MAX / 4;

struct Edge {
    to: usize,
    room: u32,
}

/// A graph with bounds on its edges. Each edge lies beside its reverse.
pub(crate) struct Graph {
    edges: Vec<Edge>,
    of: Vec<Vec<usize>>,
}

impl Graph {
    pub(crate) fn new(vertices: usize) -> Self {
        Self {
            edges: Vec::new(),
            of: vec![Vec::new(); vertices],
        }
    }

    pub(crate) fn join(&mut self, from: usize, to: usize, room: u32) {
        self.of[from].push(self.edges.len());
        self.edges.push(Edge { to, room });
        self.of[to].push(self.edges.len());
        self.edges.push(Edge { to: from, room: 0 });
    }

    pub(crate) fn edges(&self) -> usize {
        self.edges.len() / 2
    }

    /// The most that flows, up to [`WIDE`], and the vertices that the source still reaches then.
    pub(crate) fn cut(&mut self, source: usize, sink: usize) -> (u32, Vec<bool>) {
        let mut flow = 0_u32;
        loop {
            let levels = self.levels(source);
            if levels[sink].is_none() || flow >= WIDE {
                return (flow, levels.iter().map(Option::is_some).collect());
            }
            let mut next = vec![0; self.of.len()];
            loop {
                let more = self.push((source, sink), &levels, &mut next);
                if more == 0 {
                    break;
                }
                flow = flow.saturating_add(more);
            }
        }
    }

    fn levels(&self, source: usize) -> Vec<Option<u32>> {
        let mut levels = vec![None; self.of.len()];
        levels[source] = Some(0);
        let mut queue = VecDeque::from([(source, 0)]);
        while let Some((vertex, level)) = queue.pop_front() {
            for edge in &self.of[vertex] {
                let edge = &self.edges[*edge];
                if edge.room > 0 && levels[edge.to].is_none() {
                    levels[edge.to] = Some(level + 1);
                    queue.push_back((edge.to, level + 1));
                }
            }
        }
        levels
    }

    /// One augmenting path along the levels, with a stack of its own: chains may be long.
    fn push(
        &mut self,
        (source, sink): (usize, usize),
        levels: &[Option<u32>],
        next: &mut [usize],
    ) -> u32 {
        let mut path: Vec<usize> = Vec::new();
        let mut at = source;
        while at != sink {
            let Some(edge) = self.of[at].get(next[at]).copied() else {
                // A dead end: nobody comes here again on these levels.
                let Some(edge) = path.pop() else {
                    return 0;
                };
                at = self.edges[edge ^ 1].to;
                next[at] += 1;
                continue;
            };
            let to = self.edges[edge].to;
            let down = levels[to] == levels[at].map(|level| level + 1);
            if down && self.edges[edge].room > 0 {
                path.push(edge);
                at = to;
            } else {
                next[at] += 1;
            }
        }
        let rooms = path.iter().map(|edge| self.edges[*edge].room);
        let least = rooms.min().unwrap_or_default();
        for edge in path {
            self.edges[edge].room -= least;
            self.edges[edge ^ 1].room += least;
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edges: &[(usize, usize, u32)], (source, sink): (usize, usize), expected: u32) {
        let vertices = edges.iter().map(|(from, to, _)| from.max(to) + 1).max();
        let mut graph = Graph::new(vertices.unwrap_or(2));
        for (from, to, room) in edges {
            graph.join(*from, *to, *room);
        }
        let (flow, reached) = graph.cut(source, sink);
        assert_eq!(flow, expected);
        // What is cut is what flows.
        let cut: u32 = edges
            .iter()
            .filter(|(from, to, _)| reached[*from] && !reached[*to])
            .map(|(.., room)| room)
            .sum();
        assert_eq!(cut, expected);
    }

    #[test]
    fn the_flow_is_as_wide_as_the_narrowest_cut() {
        check(&[(0, 1, 3)], (0, 1), 3);
        check(&[(0, 2, 3), (2, 1, 2)], (0, 1), 2);
        check(&[(0, 2, 1), (0, 3, 1), (2, 1, 5), (3, 1, 5)], (0, 1), 2);
        check(&[(0, 2, 1), (3, 1, 1)], (0, 1), 0);
        // Flow has to go back over an edge of the first path.
        check(
            &[
                (0, 2, 1),
                (0, 3, 1),
                (2, 4, 1),
                (2, 5, 1),
                (3, 4, 1),
                (4, 1, 1),
                (5, 1, 1),
            ],
            (0, 1),
            2,
        );
    }
}
