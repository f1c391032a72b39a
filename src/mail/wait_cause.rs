//! Why mail that is ready does not go out.

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a line of ready mail waits for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum WaitCause {
            $($(#[$doc])* $name,)*
        }

        impl WaitCause {
            /// Every cause, in the order of `index`.
            pub const ALL: &[WaitCause] = &[$(WaitCause::$name,)*];

            /// As it stands in answers and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(WaitCause::$name => $text,)*
                }
            }
        }
    };
}

causes! {
    /// Others go first: the line is served.
    Turn = "turn";
    /// A connection is being opened.
    Connecting = "connecting";
    /// The site allows no further connection.
    ConnectionSlots = "connection-slots";
    /// The site allows no further connection in this second.
    ConnectionRate = "connection-rate";
    /// The site allows no further message in this second, minute, hour or day.
    MessageRate = "message-rate";
    /// A rule for replies suspended the site.
    SuspendedByRule = "suspended-by-rule";
    /// An operator suspended it.
    SuspendedByOperator = "suspended-by-operator";
    /// Connections failed: the site is left alone for a while.
    Failures = "failures";
    /// No source address of the pool can be used.
    NoSource = "no-source";
    /// The DNS is asked who takes the mail of the domain.
    Dns = "dns";
}

impl WaitCause {
    /// Position in `ALL`.
    pub const fn index(self) -> usize {
        self as usize
    }
}
