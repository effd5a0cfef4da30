create table document_versions (
  id uuid primary key default gen_random_uuid(),
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  version_number integer not null,
  title text not null,
  content jsonb not null,
  word_count integer not null default 0,
  created_at timestamptz not null default now()
);

create index document_versions_document on document_versions (document_id, version_number);

-- Runs with the writer's own rights. Keeps the new body; the free tier forgets after thirty days.
create function public.create_document_version() returns trigger language plpgsql as $$
declare
  owner_tier text;
begin
  insert into document_versions (document_id, user_id, version_number, title, content, word_count, created_at)
  values (new.id, new.user_id,
          (select coalesce(max(version_number), 0) + 1 from document_versions where document_id = new.id),
          new.title, new.content, new.word_count, sandbox.moment());
  select subscription_tier into owner_tier from user_profiles where id = new.user_id;
  if owner_tier = 'free' then
    delete from document_versions
    where document_id = new.id and created_at < sandbox.moment() - interval '30 days';
  end if;
  return new;
end $$;

create trigger documents_version after update on documents for each row
  when (old.content is distinct from new.content) execute function create_document_version();

alter table document_versions enable row level security;

create policy own_select on document_versions for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on document_versions for insert to authenticated with check ((select auth.uid()) = user_id);

create policy own_update on document_versions for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on document_versions for delete to authenticated using ((select auth.uid()) = user_id);
