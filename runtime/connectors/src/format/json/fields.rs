//! Which field goes to which column, and which field is likely to come next.
//!
//! The columns' paths make a tree of objects. Each object remembers, place by place, the bytes that stood between one
//! value and the next in an earlier row, blanks, quotes and colon included: `{"ts":`, `, "key": `. Rows of one stream are
//! mostly written by one program, so comparing those bytes replaces reading, unescaping and looking up a name.

use super::scan::Pattern;

/// How many places of an object are remembered.
const MAX_PLACES: usize = 512;

/// What becomes of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing reads it.
    Skip,
    /// It is the value of this column.
    Column(u32),
    /// It is this object of the tree.
    Object(u32),
    /// Several of these at once.
    Several(u32),
}

/// The tree of the columns' paths.
#[derive(Debug)]
pub(super) struct Fields {
    /// The first is the row itself.
    objects: Vec<Object>,
    several: Vec<Vec<Action>>,
}

/// An object whose fields are looked at.
#[derive(Debug, Default)]
struct Object {
    /// By length and name.
    names: Vec<(Box<[u8]>, Action)>,
    places: Vec<(Pattern, Action)>,
    /// Every column below.
    columns: Vec<u32>,
}

impl Fields {
    /// The tree of these paths, one a column.
    ///
    /// A dot parts a path, or belongs to a field's name: `http.status` is the field `status` of the object `http`, and
    /// the field `http.status` too. Where a row has both, the one that comes last wins.
    pub(super) fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut fields = Self { objects: vec![Object::default()], several: Vec::new() };
        for (column, path) in paths.into_iter().enumerate() {
            fields.insert(0, path, column as u32);
        }
        for object in &mut fields.objects {
            object.names.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        }
        fields
    }

    fn insert(&mut self, object: usize, path: &str, column: u32) {
        self.objects[object].columns.push(column);
        self.add(object, path, Action::Column(column));
        if let Some((head, rest)) = path.split_once('.')
            && !head.is_empty()
            && !rest.is_empty()
        {
            let child = match self.child(object, head) {
                Some(child) => child,
                None => {
                    let child = self.objects.len();
                    self.objects.push(Object::default());
                    self.add(object, head, Action::Object(child as u32));
                    child
                }
            };
            self.insert(child, rest, column);
        }
    }

    fn child(&self, object: usize, name: &str) -> Option<usize> {
        let of = |action: Action| match action {
            Action::Object(child) => Some(child as usize),
            _ => None,
        };
        let (_, action) = self.objects[object].names.iter().find(|(known, _)| **known == *name.as_bytes())?;
        match *action {
            Action::Several(list) => self.several[list as usize].iter().find_map(|action| of(*action)),
            action => of(action),
        }
    }

    fn add(&mut self, object: usize, name: &str, action: Action) {
        let names = &mut self.objects[object].names;
        match names.iter_mut().find(|(known, _)| **known == *name.as_bytes()) {
            None => names.push((name.as_bytes().into(), action)),
            Some((_, Action::Several(list))) => self.several[*list as usize].push(action),
            Some((_, known)) => {
                self.several.push(vec![*known, action]);
                *known = Action::Several(self.several.len() as u32 - 1);
            }
        }
    }

    /// The actions of [`Action::Several`].
    pub(super) fn several(&self, list: u32) -> &[Action] {
        &self.several[list as usize]
    }

    /// The columns below an object.
    pub(super) fn columns(&self, object: usize) -> &[u32] {
        &self.objects[object].columns
    }

    /// What becomes of the field of this (unescaped) name.
    pub(super) fn action(&self, object: usize, name: &[u8]) -> Action {
        let names = &self.objects[object].names;
        match names.binary_search_by(|(known, _)| (known.len(), &**known).cmp(&(name.len(), name))) {
            Ok(index) => names[index].1,
            Err(_) => Action::Skip,
        }
    }

    /// What an object is likely to have at a place.
    #[inline(always)]
    pub(super) fn place(&self, object: usize, place: usize) -> Option<&(Pattern, Action)> {
        self.objects[object].places.get(place)
    }

    /// Remembers what an object has had at a place.
    pub(super) fn remember(&mut self, object: usize, place: usize, bytes: &[u8], action: Action) {
        let places = &mut self.objects[object].places;
        if place < MAX_PLACES {
            if places.len() <= place {
                places.resize(place + 1, (Pattern::never(), Action::Skip));
            }
            places[place] = (Pattern::of(bytes), action);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_path_is_both_an_object_s_field_and_a_field_with_a_dot() {
        let fields = Fields::new(["a", "b.c", "b.d", "b"]);
        assert_eq!(fields.action(0, b"a"), Action::Column(0));
        assert_eq!(fields.action(0, b"b.c"), Action::Column(1));
        assert_eq!(fields.action(0, b"c"), Action::Skip);
        let Action::Several(list) = fields.action(0, b"b") else { panic!("b is read in two ways") };
        assert_eq!(fields.several(list), [Action::Object(1), Action::Column(3)]);
        assert_eq!(fields.action(1, b"c"), Action::Column(1));
        assert_eq!(fields.columns(1), [1, 2]);
        assert_eq!(fields.columns(0), [0, 1, 2, 3]);
    }

    #[test]
    fn a_column_s_name_may_begin_or_end_with_a_dot() {
        let fields = Fields::new([".x", "x."]);
        assert_eq!((fields.action(0, b".x"), fields.action(0, b"x.")), (Action::Column(0), Action::Column(1)));
    }
}
