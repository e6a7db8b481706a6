//! The picture of guests across hosts. Every length is computed from entries.

use crate::Report;
use crate::report::{Gap, Move, MoveEnd, Span, Timeline};
use crate::time::utc;
use maud::{Markup, html};

const WIDTH: u64 = 960;
const LEFT: u64 = 150;
const ROW: u64 = 44;
const TOP: u64 = 36;
const BAR: u64 = 26;
/// Characters take about this much room at the size of the labels.
const CHARACTER: u64 = 8;
/// Guests drawn; the table below the picture is never cut.
const ROWS_MAX: usize = 200;

#[derive(Clone, Copy)]
struct Scale {
    from_ms: u64,
    to_ms: u64,
}

impl Scale {
    fn x(self, ms: u64) -> u64 {
        let span = u128::from((self.to_ms - self.from_ms).max(1));
        let offset = u128::from(ms.clamp(self.from_ms, self.to_ms) - self.from_ms);
        let offset = offset * u128::from(WIDTH - LEFT) / span;
        LEFT + u64::try_from(offset).expect("no wider than the picture")
    }
}

/// The picture, with a table of the same facts for those who read or hear instead of look.
pub(crate) fn picture(report: &Report) -> Markup {
    let rows: Vec<_> = report
        .timelines
        .iter()
        .filter(|one| !one.spans.is_empty())
        .collect();
    let Some(from_ms) = rows
        .iter()
        .flat_map(|one| &one.spans)
        .map(|span| span.since_ms)
        .min()
    else {
        return html! { p { "No entry says where any guest was." } };
    };
    let scale = Scale {
        from_ms,
        to_ms: report.now_ms.max(from_ms),
    };
    let drawn = &rows[..rows.len().min(ROWS_MAX)];
    let height = TOP + ROW * drawn.len() as u64 + 4;
    html! {
        svg class="timeline" role="img" aria-labelledby="picture-title"
            viewBox={ "0 0 " (WIDTH) " " (height) } {
            title id="picture-title" {
                "Each guest's hosts over time; the table below says the same"
            }
            defs {
                pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"
                    patternTransform="rotate(45)" {
                    rect width="6" height="6" class="gap-ground" {}
                    rect width="3" height="6" class="gap-line" {}
                }
            }
            text x=(LEFT) y="16" class="axis" { (utc(scale.from_ms)) }
            text x=(WIDTH) y="16" class="axis" text-anchor="end" { (utc(scale.to_ms)) }
            @for (row, timeline) in (0..).zip(drawn) {
                (bar(scale, row, timeline))
                @for one in report.moves.iter().filter(|one| one.guest == timeline.guest) {
                    (mark(scale, TOP + row * ROW, one))
                }
            }
        }
        p class="note legend" {
            span class="key protected" {} " an agent enforces "
            span class="key unprotected" {} " unprotected (hatched) "
            span aria-hidden="true" { "\u{25bc}" } " a move that took place "
            span aria-hidden="true" { "\u{25bd}" } " a move that was called off, refused or is "
            "not proven"
        }
        @if drawn.len() < rows.len() {
            p class="note" { "The picture shows " (drawn.len()) " of " (rows.len()) " guests." }
        }
        (table(&rows))
    }
}

fn bar(scale: Scale, row: u64, timeline: &Timeline) -> Markup {
    let y = TOP + row * ROW;
    html! {
        g {
            text x="0" y=(y + 18) class="guest" { (timeline.guest) }
            @if timeline.in_scope { text x="0" y=(y + 32) class="axis" { "in scope" } }
            @for span in &timeline.spans { (stay(scale, y, span)) }
            @for gap in &timeline.gaps {
                // Even a gap too short to draw gets a mark of two units.
                rect x=(scale.x(gap.since_ms)) y=(y + BAR) height="8" fill="url(#hatch)"
                    width=((scale.x(gap.until_ms) - scale.x(gap.since_ms)).max(2)) {
                    title { "unprotected by " (gap.cause) ": " (length(gap)) }
                }
            }
        }
    }
}

fn stay(scale: Scale, y: u64, span: &Span) -> Markup {
    let (x, end) = (scale.x(span.since_ms), scale.x(span.until_ms));
    let width = (end - x).max(2);
    let fits = width > (span.host.as_str().len() as u64 + 1) * CHARACTER;
    html! {
        @if span.protected {
            rect class="stay" x=(x) y=(y) width=(width) height=(BAR) rx="4" {
                title { (span.host) ", protected, " (utc(span.since_ms)) }
            }
        } @else {
            rect class="stay loose" x=(x) y=(y) width=(width) height=(BAR) rx="4"
                fill="url(#hatch)" {
                title { (span.host) ", unprotected, " (utc(span.since_ms)) }
            }
        }
        @if fits {
            text x=(x + 6) y=(y + 18) class=(if span.protected { "host" } else { "host bare" }) {
                (span.host)
            }
        }
    }
}

/// A triangle above the bar, filled if the guest moved.
fn mark(scale: Scale, y: u64, one: &Move) -> Markup {
    let x = scale.x(one.time_ms);
    let (left, right, top, tip) = (x - 6, x + 6, y - 10, y - 1);
    let class = match one.end {
        MoveEnd::Committed | MoveEnd::StateLost => "move",
        MoveEnd::Aborted | MoveEnd::Refused | MoveEnd::Unproven => "move hollow",
    };
    html! {
        polygon class=(class)
            points={ (left) "," (top) " " (right) "," (top) " " (x) "," (tip) } {
            title { (one.from) " to " (one.to) ", " (one.end.words()) ", " (utc(one.time_ms)) }
        }
    }
}

/// Every move on record.
pub(crate) fn moves(report: &Report) -> Markup {
    html! {
        section aria-labelledby="moves" {
            h2 id="moves" { "Moves" }
            @if report.moves.is_empty() {
                p { "No move was recorded or refused." }
            } @else {
                div class="scroll" tabindex="0" role="region" aria-labelledby="moves" {
                    table {
                        thead { tr {
                            th scope="col" { "When" } th scope="col" { "Guest" }
                            th scope="col" { "From, to" } th scope="col" { "How it ended" }
                            th scope="col" { "Measured, or why not" }
                            th scope="col" { "Evidence" }
                        } }
                        tbody { @for one in &report.moves { (move_row(one)) } }
                    }
                }
            }
        }
    }
}

fn move_row(one: &Move) -> Markup {
    html! {
        tr {
            td { span class="when" { (utc(one.time_ms)) } }
            th scope="row" { (one.guest) }
            td { (one.from) " \u{2192} " (one.to) }
            td {
                (one.end.words())
                @if let Some(signers) = one.signers { p class="note" { "signed by " (signers) } }
            }
            td { (one.measured) }
            td { "entry " (one.entry) }
        }
    }
}

fn length(gap: &Gap) -> String {
    format!(
        "{} ms, give or take {} ms",
        gap.until_ms - gap.since_ms,
        gap.error_ms
    )
}

fn table(rows: &[&Timeline]) -> Markup {
    html! {
        details {
            summary { "The same as a table" }
            div class="scroll" tabindex="0" role="region" aria-label="Guests over time" {
                table {
                    thead { tr {
                        th scope="col" { "Guest" } th scope="col" { "Where, or what" }
                        th scope="col" { "From" } th scope="col" { "Until" }
                        th scope="col" { "Protection" } th scope="col" { "Entry" }
                    } }
                    tbody {
                        @for timeline in rows {
                            @for span in &timeline.spans {
                                tr {
                                    th scope="row" { (timeline.guest) }
                                    td { (span.host) }
                                    td { (utc(span.since_ms)) } td { (utc(span.until_ms)) }
                                    td {
                                        @if span.protected { "protected" }
                                        @else { "unprotected" }
                                    }
                                    td { (span.entry) }
                                }
                            }
                            @for gap in &timeline.gaps {
                                tr {
                                    th scope="row" { (timeline.guest) }
                                    td { (gap.cause) }
                                    td { (utc(gap.since_ms)) } td { (utc(gap.until_ms)) }
                                    td { "unprotected, " (length(gap)) }
                                    td { (gap.entry) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
