create function show_limit() returns real stable strict language sql as $$ select 0.3::real $$;
create function set_limit(threshold real) returns real volatile strict language sql as $$ select threshold $$;
create function show_trgm(words text) returns text[] immutable strict language sql as $$ select array[lower(words)] $$;
create function similarity(one text, other text) returns real immutable strict language sql as $$
  select (lower(one) = lower(other))::int::real
$$;
create function word_similarity(one text, other text) returns real immutable strict language sql as $$
  select (strpos(lower(other), lower(one)) > 0)::int::real
$$;
create function strict_word_similarity(one text, other text) returns real immutable strict language sql as $$
  select (strpos(lower(other), lower(one)) > 0)::int::real
$$;
create function similarity_op(one text, other text) returns boolean stable strict language sql as $$
  select lower(one) = lower(other)
$$;
create function similarity_dist(one text, other text) returns real immutable strict language sql as $$
  select 1 - (lower(one) = lower(other))::int::real
$$;
create function word_similarity_op(one text, other text) returns boolean stable strict language sql as $$
  select strpos(lower(other), lower(one)) > 0
$$;
create function word_similarity_commutator_op(one text, other text) returns boolean stable strict language sql as $$
  select strpos(lower(one), lower(other)) > 0
$$;
create function word_similarity_dist_op(one text, other text) returns real immutable strict language sql as $$
  select 1 - (strpos(lower(other), lower(one)) > 0)::int::real
$$;
create function word_similarity_dist_commutator_op(one text, other text) returns real immutable strict language sql as $$
  select 1 - (strpos(lower(one), lower(other)) > 0)::int::real
$$;
create operator % (leftarg = text, rightarg = text, function = similarity_op, commutator = %);
create operator <-> (leftarg = text, rightarg = text, function = similarity_dist, commutator = <->);
create operator <% (leftarg = text, rightarg = text, function = word_similarity_op, commutator = %>);
create operator %> (leftarg = text, rightarg = text, function = word_similarity_commutator_op, commutator = <%);
create operator <<% (leftarg = text, rightarg = text, function = word_similarity_op, commutator = %>>);
create operator %>> (leftarg = text, rightarg = text, function = word_similarity_commutator_op, commutator = <<%);
create operator <<-> (leftarg = text, rightarg = text, function = word_similarity_dist_op, commutator = <->>);
create operator <->> (leftarg = text, rightarg = text, function = word_similarity_dist_commutator_op, commutator = <<->);

-- An index can be made, and stays empty: whatever would read or write a word in it ends with "not supported" (0A000),
-- which a rehearsal takes for what this server cannot do, and not for the file's fault.
create function gin_extract_value_trgm(text, internal) returns internal immutable strict language internal as 'internal_in';
create function gin_extract_query_trgm(text, internal, int2, internal, internal, internal, internal) returns internal
  immutable strict language internal as 'internal_in';
create function gin_trgm_consistent(internal, int2, text, int4, internal, internal, internal, internal) returns boolean
  immutable strict language internal as 'internal_in';
create operator class gin_trgm_ops for type text using gin as
  function 2 gin_extract_value_trgm (text, internal),
  function 3 gin_extract_query_trgm (text, internal, int2, internal, internal, internal, internal),
  function 4 gin_trgm_consistent (internal, int2, text, int4, internal, internal, internal, internal),
  storage int4;
create function gtrgm_consistent(internal, text, smallint, oid, internal) returns boolean
  immutable strict language internal as 'internal_in';
create function gtrgm_union(internal, internal) returns text immutable strict language internal as 'internal_in';
create function gtrgm_penalty(internal, internal, internal) returns internal
  immutable strict language internal as 'internal_in';
create function gtrgm_picksplit(internal, internal) returns internal immutable strict language internal as 'internal_in';
create function gtrgm_same(text, text, internal) returns internal immutable strict language internal as 'internal_in';
create function gtrgm_compress(internal) returns internal immutable strict language internal as 'internal_in';
create operator class gist_trgm_ops for type text using gist as
  function 1 gtrgm_consistent (internal, text, smallint, oid, internal),
  function 2 gtrgm_union (internal, internal),
  function 3 gtrgm_compress (internal),
  function 5 gtrgm_penalty (internal, internal, internal),
  function 6 gtrgm_picksplit (internal, internal),
  function 7 gtrgm_same (text, text, internal);
