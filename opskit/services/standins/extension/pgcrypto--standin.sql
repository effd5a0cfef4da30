create function gen_random_uuid() returns uuid volatile language sql as $$ select pg_catalog.gen_random_uuid() $$;
create function gen_random_bytes(count integer) returns bytea volatile strict language sql as $$
  select substring(string_agg(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), '') from 1 for count)
  from generate_series(0, count / 16)
$$;
create function digest(data bytea, type text) returns bytea immutable strict language sql as $$
  select case lower(type) when 'sha512' then sha512(data) when 'sha384' then sha384(data)
    when 'sha224' then sha224(data) when 'md5' then decode(md5(data), 'hex') else sha256(data) end
$$;
create function digest(data text, type text) returns bytea immutable strict language sql as $$
  select case lower(type) when 'sha512' then sha512(convert_to(data, 'utf8'))
    when 'sha384' then sha384(convert_to(data, 'utf8')) when 'sha224' then sha224(convert_to(data, 'utf8'))
    when 'md5' then decode(md5(data), 'hex') else sha256(convert_to(data, 'utf8')) end
$$;
create function hmac(data bytea, key bytea, type text) returns bytea immutable strict language sql as $$
  select sha256(data || key)
$$;
create function hmac(data text, key text, type text) returns bytea immutable strict language sql as $$
  select sha256(convert_to(data || key, 'utf8'))
$$;
create function gen_salt(type text) returns text volatile strict language sql as $$
  select '$2a$06$' || left(md5(random()::text), 22)
$$;
create function gen_salt(type text, rounds integer) returns text volatile strict language sql as $$
  select '$2a$' || lpad(rounds::text, 2, '0') || '$' || left(md5(random()::text), 22)
$$;
create function crypt(password text, salt text) returns text immutable strict language sql as $$
  select left(salt, 29) || left(md5(password || left(salt, 29)), 31)
$$;
create function encrypt(data bytea, key bytea, type text) returns bytea immutable strict language sql as $$ select data $$;
create function decrypt(data bytea, key bytea, type text) returns bytea immutable strict language sql as $$ select data $$;
create function encrypt_iv(data bytea, key bytea, iv bytea, type text) returns bytea immutable strict
  language sql as $$ select data $$;
create function decrypt_iv(data bytea, key bytea, iv bytea, type text) returns bytea immutable strict
  language sql as $$ select data $$;
create function pgp_sym_encrypt(data text, key text) returns bytea volatile strict language sql as $$
  select convert_to(data, 'utf8')
$$;
create function pgp_sym_encrypt(data text, key text, options text) returns bytea volatile strict language sql as $$
  select convert_to(data, 'utf8')
$$;
create function pgp_sym_encrypt_bytea(data bytea, key text) returns bytea volatile strict language sql as $$ select data $$;
create function pgp_sym_encrypt_bytea(data bytea, key text, options text) returns bytea volatile strict
  language sql as $$ select data $$;
create function pgp_sym_decrypt(data bytea, key text) returns text immutable strict language sql as $$
  select convert_from(data, 'utf8')
$$;
create function pgp_sym_decrypt(data bytea, key text, options text) returns text immutable strict language sql as $$
  select convert_from(data, 'utf8')
$$;
create function pgp_sym_decrypt_bytea(data bytea, key text) returns bytea immutable strict language sql as $$ select data $$;
create function pgp_sym_decrypt_bytea(data bytea, key text, options text) returns bytea immutable strict
  language sql as $$ select data $$;
create function pgp_pub_encrypt(data text, key bytea) returns bytea volatile strict language sql as $$
  select convert_to(data, 'utf8')
$$;
create function pgp_pub_decrypt(data bytea, key bytea) returns text immutable strict language sql as $$
  select convert_from(data, 'utf8')
$$;
create function pgp_pub_decrypt(data bytea, key bytea, password text) returns text immutable strict language sql as $$
  select convert_from(data, 'utf8')
$$;
create function armor(data bytea) returns text immutable strict language sql as $$ select encode(data, 'base64') $$;
create function dearmor(data text) returns bytea immutable strict language sql as $$ select decode(data, 'base64') $$;
