create function public.touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := sandbox.moment();
  return new;
end $$;

-- What each plan may use. The only public table without row-level security.
create table subscription_plan_limits (
  plan text primary key,
  max_projects integer,
  max_documents integer
);

insert into subscription_plan_limits values
  ('free', 3, 20),
  ('hobbyist', 10, 200),
  ('professional', 50, 2000),
  ('studio', null, null);

create table user_profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text not null,
  full_name text,
  stripe_customer_id text unique,
  stripe_subscription_id text unique,
  stripe_price_id text,
  subscription_status text default 'active',
  subscription_tier text not null default 'free'
    constraint user_profiles_subscription_tier_check
    check (subscription_tier in ('free', 'hobbyist', 'professional', 'studio')),
  subscription_current_period_start timestamptz,
  subscription_current_period_end timestamptz,
  ai_words_used_this_month integer not null default 0,
  ai_words_reset_date timestamptz default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.user_profiles (id, email) values (new.id, new.email);
  return new;
end $$;

create trigger on_auth_user_created after insert on auth.users for each row execute function public.handle_new_user();

create trigger user_profiles_touch before update on user_profiles for each row execute function touch_updated_at();

create table projects (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  title text not null,
  genre text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create index projects_user on projects (user_id);

create trigger projects_touch before update on projects for each row execute function touch_updated_at();

create table documents (
  id uuid primary key default gen_random_uuid(),
  project_id uuid not null references projects (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  title text not null,
  content jsonb not null default '{}',
  is_folder boolean not null default false,
  status text not null default 'draft' check (status in ('complete', 'draft', 'todo', 'ai_generated')),
  word_count integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint documents_folder_is_empty check (not is_folder or content = '{}')
);

create index documents_project on documents (project_id);

create index documents_user on documents (user_id);

create trigger documents_touch before update on documents for each row execute function touch_updated_at();

alter table user_profiles enable row level security;

create policy own_select on user_profiles for select to authenticated using ((select auth.uid()) = id);

create policy own_update on user_profiles for update to authenticated
  using ((select auth.uid()) = id) with check ((select auth.uid()) = id);

alter table projects enable row level security;

create policy own_select on projects for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on projects for insert to authenticated with check ((select auth.uid()) = user_id);

create policy own_update on projects for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on projects for delete to authenticated using ((select auth.uid()) = user_id);

alter table documents enable row level security;

create policy own_select on documents for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on documents for insert to authenticated with check ((select auth.uid()) = user_id);

create policy own_update on documents for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on documents for delete to authenticated using ((select auth.uid()) = user_id);
