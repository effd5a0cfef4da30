-- Compares as text does: a rehearsal has no rows to tell the difference by.
create domain citext as text;
