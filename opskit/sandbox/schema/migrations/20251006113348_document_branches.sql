create table document_branches (
  id uuid primary key default gen_random_uuid(),
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  name text not null,
  is_main boolean not null default false,
  content jsonb not null,
  created_at timestamptz not null default now()
);

create index document_branches_document on document_branches (document_id);

alter table document_branches enable row level security;

create policy own_select on document_branches for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on document_branches for insert to authenticated with check ((select auth.uid()) = user_id);

create policy own_update on document_branches for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on document_branches for delete to authenticated using ((select auth.uid()) = user_id);
