//! How few rows say what a grid says. A row of a host's table may be about one peer or everybody
//! and about one atom or all of them; the most particular one answers. Finding the fewest is a
//! covering problem; this improves from two beginnings until nothing gets better, and is never
//! worse than a row for each peer and atom, or one for each peer with exceptions.

/// How many peers and atoms stand in each row and column of the grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) rows: &'a [u32],
    pub(super) columns: &'a [u32],
}

/// Rows that cover more than one cell. What a cell says otherwise needs rows of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// For everybody and every atom; 0 if there is no such row.
    pub(super) base: u32,
    /// For everybody, by column.
    pub(super) columns: Vec<Option<u32>>,
    /// For every atom, by row of the grid.
    pub(super) rows: Vec<Option<u32>>,
    /// How many rows of the table it takes, exceptions included.
    pub(super) cost: u64,
}

impl Layout {
    /// What the rows for several cells say of one.
    pub(super) fn says(&self, row: usize, column: usize) -> u32 {
        self.rows[row].or(self.columns[column]).unwrap_or(self.base)
    }
}

/// Rounds of improvement. Each lowers the cost, so this only bounds the time.
const ROUNDS_MAX: usize = 16;

/// The layout with the fewest rows that was found. Equal grids have equal layouts.
pub(super) fn fewest(weights: &Weights<'_>, cells: &[u32]) -> Layout {
    let (height, width) = (weights.rows.len(), weights.columns.len());
    let empty = |base| Layout {
        base,
        columns: vec![None; width],
        rows: vec![None; height],
        cost: 0,
    };
    let search = Search { weights, cells };
    let mut tally = Tally::of(cells);
    let plain = empty(0);
    let mut best = Layout {
        cost: search.cost(&plain),
        ..plain
    };
    // One row is hardly beaten.
    if best.cost <= 1 {
        return best;
    }
    let common = search.most_common(&mut tally);
    let bases: &[u32] = if common == 0 { &[0] } else { &[0, common] };
    for base in bases {
        for rows_first in [false, true] {
            let mut layout = empty(*base);
            if rows_first {
                search.rows(&mut layout, &mut tally);
            }
            layout.cost = search.cost(&layout);
            for _ in 0..ROUNDS_MAX {
                let before = layout.cost;
                search.columns(&mut layout, &mut tally);
                search.rows(&mut layout, &mut tally);
                layout.cost = search.cost(&layout);
                if layout.cost >= before {
                    break;
                }
            }
            if layout.cost < best.cost {
                best = layout;
            }
        }
    }
    best
}

/// Sums by value, emptied after each use.
struct Tally {
    sums: Vec<u64>,
    touched: Vec<u32>,
}

impl Tally {
    fn of(cells: &[u32]) -> Self {
        let values = cells.iter().max().map_or(0, |value| *value as usize) + 1;
        Self {
            sums: vec![0; values],
            touched: Vec::new(),
        }
    }

    fn add(&mut self, value: u32, weight: u64) {
        let sum = &mut self.sums[value as usize];
        if *sum == 0 {
            self.touched.push(value);
        }
        *sum += weight;
    }

    /// The heaviest value, the smallest one among equals, and its weight.
    fn take(&mut self) -> (u32, u64) {
        let mut best = (0, 0);
        for value in self.touched.drain(..) {
            let sum = std::mem::take(&mut self.sums[value as usize]);
            if sum > best.1 || (sum == best.1 && value < best.0) {
                best = (value, sum);
            }
        }
        best
    }
}

struct Search<'a> {
    weights: &'a Weights<'a>,
    cells: &'a [u32],
}

impl Search<'_> {
    fn cell(&self, row: usize, column: usize) -> u32 {
        self.cells[row * self.weights.columns.len() + column]
    }

    fn row_weight(&self, row: usize) -> u64 {
        self.weights.rows[row].into()
    }

    fn column_weight(&self, column: usize) -> u64 {
        self.weights.columns[column].into()
    }

    fn most_common(&self, tally: &mut Tally) -> u32 {
        for row in 0..self.weights.rows.len() {
            for column in 0..self.weights.columns.len() {
                let weight = self.row_weight(row) * self.column_weight(column);
                tally.add(self.cell(row, column), weight);
            }
        }
        tally.take().0
    }

    /// For each column the row about everybody that pays, with the rows about peers as they are.
    fn columns(&self, layout: &mut Layout, tally: &mut Tally) {
        for column in 0..self.weights.columns.len() {
            let (mut all, mut same) = (0, 0);
            for row in (0..self.weights.rows.len()).filter(|row| layout.rows[*row].is_none()) {
                let (value, weight) = (self.cell(row, column), self.row_weight(row));
                tally.add(value, weight);
                all += weight;
                same += if value == layout.base { weight } else { 0 };
            }
            let (value, weight) = tally.take();
            let pays = 1 + (all - weight) < all - same;
            layout.columns[column] = pays.then_some(value);
        }
    }

    /// For each row the row about every atom that pays, with those about everybody as they are.
    fn rows(&self, layout: &mut Layout, tally: &mut Tally) {
        for row in 0..self.weights.rows.len() {
            let (mut all, mut same) = (0, 0);
            for column in 0..self.weights.columns.len() {
                let (value, weight) = (self.cell(row, column), self.column_weight(column));
                tally.add(value, weight);
                all += weight;
                let said = layout.columns[column].unwrap_or(layout.base);
                same += if value == said { weight } else { 0 };
            }
            let (value, weight) = tally.take();
            let pays = 1 + (all - weight) < all - same;
            layout.rows[row] = pays.then_some(value);
        }
    }

    fn cost(&self, layout: &Layout) -> u64 {
        let mut cost = u64::from(layout.base != 0);
        for (column, value) in layout.columns.iter().enumerate() {
            cost += value.map_or(0, |_| self.column_weight(column));
        }
        for (row, value) in layout.rows.iter().enumerate() {
            let columns = 0..self.weights.columns.len();
            let wrong =
                columns.filter(|column| self.cell(row, *column) != layout.says(row, *column));
            let wrong: u64 = wrong.map(|column| self.column_weight(column)).sum();
            cost += self.row_weight(row) * (wrong + u64::from(value.is_some()));
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[u32], columns: &[u32], cells: &[u32], expected: u64) {
        let layout = fewest(&Weights { rows, columns }, cells);
        assert_eq!(layout.cost, expected, "{cells:?}: {layout:?}");
    }

    #[test]
    fn what_is_alike_is_said_once() {
        check(&[9], &[7], &[0], 0);
        check(&[9], &[7], &[1], 1);
        // One peer of many is denied: its own row.
        check(&[1, 3_000], &[5], &[2, 1], 2);
        // One port of many is denied to all.
        check(&[3_000], &[1, 100], &[2, 1], 2);
        // Everything but one cell.
        check(&[1, 50], &[1, 50], &[2, 1, 1, 1], 2);
        // A row for each peer is better than one for each atom.
        check(&[2, 2], &[100], &[1, 2], 3);
        check(&[4], &[1, 100], &[1, 0], 1);
        // Explicit denial under a row for everybody.
        check(&[1, 1_000], &[10], &[0, 1], 2);
    }

    /// Every layout of small grids, tried out.
    #[test]
    fn little_is_lost_against_the_fewest_rows() {
        let (mut found, mut least) = (0, 0);
        for seed in 0..3_u32.pow(6) {
            let cells: Vec<u32> = (0..6).map(|cell| seed / 3_u32.pow(cell) % 3).collect();
            for (rows, columns) in [([1, 1, 1], [1, 1]), ([1, 4, 2], [3, 1])] {
                let weights = Weights {
                    rows: &rows,
                    columns: &columns,
                };
                let one = fewest(&weights, &cells).cost;
                let best = exhaustive(&weights, &cells);
                assert!(one >= best, "{cells:?}: the search is wrong");
                (found, least) = (found + one, least + best);
            }
        }
        assert!(found * 100 <= least * 103, "{found} rows where {least} do");
    }

    fn exhaustive(weights: &Weights<'_>, cells: &[u32]) -> u64 {
        let search = Search { weights, cells };
        let option = |code: u32| code.checked_sub(1);
        let layouts = (0..3).flat_map(|base| {
            (0..4_u32.pow(5)).map(move |code| Layout {
                base,
                rows: (0..3)
                    .map(|row| option(code / 4_u32.pow(row) % 4))
                    .collect(),
                columns: (3..5)
                    .map(|row| option(code / 4_u32.pow(row) % 4))
                    .collect(),
                cost: 0,
            })
        });
        layouts
            .map(|layout| search.cost(&layout))
            .min()
            .expect("some")
    }
}
