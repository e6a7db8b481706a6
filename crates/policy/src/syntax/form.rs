//! The forms of all statements and rules, once: the reader, the printer, the JSON schema and the
//! editor's grammar are made of this table, and a test holds it against the parser.

/// What stands at one place of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A word: a name, a number, a date.
    Word,
    /// A text in quotes.
    Text,
    /// Words, with or without commas.
    Words,
    /// Words with commas between them.
    List,
    /// Everything up to the next clause, as it is written.
    Raw,
    /// Nothing: the keyword says it all.
    Flag,
    /// A word that always stands there and is no field.
    Keyword,
    /// A mark that always stands there and is no field.
    Mark(char),
}

/// A place: its field in the tree, which is also its keyword if it is a clause.
pub(crate) type Field = (&'static str, Kind);

/// A statement or a rule.
#[derive(Debug)]
pub(crate) struct Form {
    /// The word it begins with.
    pub(crate) word: &'static str,
    /// What follows in a fixed order.
    pub(crate) head: &'static [Field],
    /// What follows behind keywords, in the order in which it is printed.
    pub(crate) clauses: &'static [Field],
}

const ANSWERABLE: &[Field] = &[
    ("owner", Kind::Text),
    ("justification", Kind::Text),
    ("expires", Kind::Word),
];

const RULE: &[Field] = &[
    ("from", Kind::Raw),
    ("to", Kind::Raw),
    ("service", Kind::List),
    ("at", Kind::Word),
    ("owner", Kind::Text),
    ("justification", Kind::Text),
    ("requirement", Kind::List),
    ("review", Kind::Word),
    ("expires", Kind::Word),
    ("during", Kind::Word),
    ("log", Kind::Word),
    ("log-limit", Kind::Word),
    ("limit", Kind::Word),
];

const NAMED: &[Field] = &[("name", Kind::Word)];
const STANDING: &[Field] = &[("name", Kind::Word), ("selector", Kind::Raw)];

const fn definition(word: &'static str, list: &'static [Field]) -> Form {
    Form {
        word,
        head: list,
        clauses: &[],
    }
}

const fn rule(word: &'static str) -> Form {
    Form {
        word,
        head: NAMED,
        clauses: RULE,
    }
}

/// Statements, in the order in which the parser lists them.
pub(crate) const STATEMENTS: &[Form] = &[
    Form {
        word: "policy",
        head: &[("name", Kind::Text)],
        clauses: &[("version", Kind::Word)],
    },
    Form {
        word: "label",
        head: &[("name", Kind::Word), ("", Kind::Mark(':'))],
        clauses: &[
            ("string", Kind::Flag),
            ("one-of", Kind::Words),
            ("required", Kind::Flag),
            ("exclusive", Kind::Flag),
        ],
    },
    definition(
        "set",
        &[
            ("name", Kind::Word),
            ("", Kind::Mark('=')),
            ("prefix", Kind::Keyword),
            ("prefixes", Kind::Words),
        ],
    ),
    definition(
        "service",
        &[
            ("name", Kind::Word),
            ("", Kind::Mark('=')),
            ("items", Kind::Words),
        ],
    ),
    definition(
        "window",
        &[
            ("name", Kind::Word),
            ("", Kind::Mark('=')),
            ("days", Kind::Words),
        ],
    ),
    Form {
        word: "scope",
        head: &[
            ("name", Kind::Word),
            ("", Kind::Mark('=')),
            ("selector", Kind::Raw),
        ],
        clauses: &[("sensitive", Kind::Flag)],
    },
    Form {
        word: "isolate",
        head: STANDING,
        clauses: ANSWERABLE,
    },
    Form {
        word: "exclude",
        head: STANDING,
        clauses: ANSWERABLE,
    },
    Form {
        word: "tier",
        head: NAMED,
        clauses: &[
            ("ordered", Kind::Flag),
            ("unordered", Kind::Flag),
            ("allow-only", Kind::Flag),
            ("observe", Kind::Flag),
            ("owner", Kind::Text),
            ("within", Kind::Raw),
            ("on-expiry", Kind::Word),
        ],
    },
    Form {
        word: "require",
        head: &[("selector", Kind::Raw)],
        clauses: &[("controls", Kind::Words)],
    },
    Form {
        word: "observe",
        head: &[("selector", Kind::Raw)],
        clauses: ANSWERABLE,
    },
    Form {
        word: "when",
        head: &[("cause", Kind::Word)],
        clauses: &[
            ("for", Kind::Raw),
            ("choose", Kind::Word),
            ("owner", Kind::Text),
            ("justification", Kind::Text),
            ("expires", Kind::Word),
        ],
    },
    Form {
        word: "delegate",
        head: &[("name", Kind::Word)],
        clauses: &[
            ("to", Kind::Text),
            ("bind", Kind::Raw),
            ("guests", Kind::Word),
            ("prefixes", Kind::Words),
            ("segments", Kind::Words),
        ],
    },
    Form {
        word: "assert",
        head: &[
            ("name", Kind::Word),
            ("", Kind::Mark(':')),
            ("claim", Kind::Raw),
        ],
        clauses: &[],
    },
];

/// Rules of a tier.
pub(crate) const RULES: &[Form] = &[rule("allow"), rule("deny"), rule("reject"), rule("pass")];

/// What the baseline says: `deny all [log ...]`.
pub(crate) const BASELINE: Form = Form {
    word: "deny",
    head: &[("all", Kind::Keyword)],
    clauses: &[("log", Kind::Word)],
};

/// The name of the tier that is the baseline.
pub(crate) const BASELINE_NAME: &str = "baseline";

impl Form {
    /// The fields of the tree.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> {
        let head = self.head.iter().copied();
        let head = head.filter(|(_, kind)| !matches!(kind, Kind::Mark(_) | Kind::Keyword));
        head.chain(self.clauses.iter().copied())
    }

    pub(crate) fn clause(&self, word: &str) -> Option<Field> {
        self.clauses.iter().copied().find(|(name, _)| *name == word)
    }
}

pub(crate) fn of<'a>(forms: &'a [Form], word: &str) -> Option<&'a Form> {
    forms.iter().find(|form| form.word == word)
}
