-- What every Supabase project has before its first migration, as far as migrations usually ask for it.

do $$
declare role text;
begin
  foreach role in array array['anon', 'authenticated', 'service_role', 'authenticator', 'supabase_admin',
    'supabase_auth_admin', 'supabase_storage_admin', 'supabase_read_only_user', 'dashboard_user', 'postgres'] loop
    if not exists (select from pg_roles where rolname = role) then
      execute format('create role %I', role);
    end if;
  end loop;
end $$;
alter role postgres createdb createrole bypassrls;
alter role service_role bypassrls;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
create schema auth;
create schema storage;
create schema extensions;
create schema realtime;
create schema vault;
create table auth.users (
  id uuid primary key default gen_random_uuid(), instance_id uuid, aud text, role text, email text unique, phone text,
  encrypted_password text, email_confirmed_at timestamptz, confirmed_at timestamptz, last_sign_in_at timestamptz,
  raw_app_meta_data jsonb, raw_user_meta_data jsonb, is_super_admin boolean, is_anonymous boolean default false,
  is_sso_user boolean default false, invited_at timestamptz, phone_confirmed_at timestamptz, banned_until timestamptz,
  created_at timestamptz default now(), updated_at timestamptz default now(), deleted_at timestamptz
);
create table auth.identities (id uuid primary key default gen_random_uuid(), user_id uuid references auth.users (id));
create table auth.sessions (
  id uuid primary key default gen_random_uuid(), user_id uuid not null references auth.users (id),
  created_at timestamptz, updated_at timestamptz, not_after timestamptz, user_agent text, ip inet
);
create function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                  nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;
create function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), auth.jwt() ->> 'sub')::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), auth.jwt() ->> 'role')
$$;
create function auth.email() returns text language sql stable as $$ select auth.jwt() ->> 'email' $$;
create table storage.buckets (
  id text primary key, name text not null unique, owner uuid, public boolean default false, file_size_limit bigint,
  allowed_mime_types text[], created_at timestamptz default now(), updated_at timestamptz default now()
);
create table storage.objects (
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets (id), name text, owner uuid,
  owner_id text, metadata jsonb, user_metadata jsonb, version text, path_tokens text[], created_at timestamptz default now(),
  updated_at timestamptz default now(), last_accessed_at timestamptz default now()
);
alter table storage.objects enable row level security;
create function storage.foldername(name text) returns text[] language sql immutable as $$
  select (string_to_array(name, '/'))[1:array_length(string_to_array(name, '/'), 1) - 1]
$$;
create function storage.filename(name text) returns text language sql immutable as $$
  select (string_to_array(name, '/'))[array_length(string_to_array(name, '/'), 1)]
$$;
create function storage.extension(name text) returns text language sql immutable as $$
  select reverse(split_part(reverse(storage.filename(name)), '.', 1))
$$;
create table realtime.messages (
  id uuid primary key default gen_random_uuid(), topic text not null, extension text not null, payload jsonb, event text,
  private boolean default false, inserted_at timestamp not null default now(), updated_at timestamp default now()
);
alter table realtime.messages enable row level security;
create function realtime.topic() returns text language sql stable as $$
  select nullif(current_setting('realtime.topic', true), '')
$$;
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
grant usage on schema auth, storage, extensions, realtime, public to anon, authenticated, service_role, postgres;
grant select, insert, update on realtime.messages to anon, authenticated, service_role, postgres;
grant all on all tables in schema auth, storage to postgres, service_role;
