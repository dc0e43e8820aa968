//! Columns for people.

/// To which side a column's cells are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A line for the header and one for each row, each column as wide as its widest cell, two spaces between them.
pub(crate) fn table<const N: usize>(header: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str()).chain([header[column].0]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).zip(header).map(|((cell, width), (_, align))| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head = line(header.map(|(title, _)| title));
    rows.iter().fold(head, |text, row| text + &line(row.each_ref().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_spaces_at_their_end() {
        let header = [("PEER", Align::Left), ("STREAMS", Align::Right), ("STATE", Align::Left)];
        let rows = [["node-b", "1", "dialled"], ["n", "12345678", ""]].map(|row| row.map(str::to_owned));
        let expected = "PEER     STREAMS  STATE\nnode-b         1  dialled\nn       12345678\n";
        assert_eq!(table(header, &rows), expected);
        assert_eq!(table(header, &[]), "PEER  STREAMS  STATE\n");
    }
}
